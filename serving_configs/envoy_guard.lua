-- SPDX-License-Identifier: Apache-2.0
--
-- An Envoy filter: who may change what a model server serves. It answers as
-- lintf/serving/access.py does.
--
-- The name of a signature is inside the Predict request, so the filter reads
-- the request's outer fields. Whatever it does not fully understand it
-- refuses: a request that it took for a harmless one must be so for the server.

local FOLDER = "/etc/lintf"

local MUTATING = {
  update = true,
  update_by_embedding = true,
  update_attributes = true,
}

local PREDICT = "/tensorflow.serving.PredictionService/Predict"
local RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
local OPEN = {
  ["/tensorflow.serving.PredictionService/GetModelMetadata"] = true,
  ["/tensorflow.serving.ModelService/GetModelStatus"] = true,
}

-- gRPC status codes.
local INVALID_ARGUMENT = 3
local PERMISSION_DENIED = 7
local UNIMPLEMENTED = 12
local INTERNAL = 13
local UNAUTHENTICATED = 16

local function exists(path)
  local file = io.open(path, "r")
  if file then file:close() end
  return file ~= nil
end

local function read_token()
  local file = assert(io.open(FOLDER .. "/update_token", "r"))
  local token = file:read("*a"):match("^%s*(%S+)%s*$")
  file:close()
  return assert(token, "update_token must hold one token on one line")
end

local TOKEN = read_token()
local READ_ONLY = exists(FOLDER .. "/read_only")

local function refuse(handle, status, message)
  handle:respond({
    [":status"] = "200",
    ["content-type"] = "application/grpc",
    ["grpc-status"] = tostring(status),
    ["grpc-message"] = message,
  }, "")
end

-- The time that this takes depends on nothing but the lengths.
local function same(given, token)
  local difference = #given == #token and 0 or 1
  for i = 1, #token do
    local byte = given:byte(i) or 0
    difference = bit.bor(difference, bit.bxor(byte, token:byte(i)))
  end
  return difference == 0
end

local function has_token(headers)
  local given = headers:get("authorization") or ""
  local scheme, token = given:match("^(%S+) (%S+)$")
  return token ~= nil and scheme:lower() == "bearer" and same(token, TOKEN)
end

-- A varint below 2^31 in its shortest form, and the place behind it. Programs
-- write no other for tags and lengths, and parsers may read others each in
-- their own way.
local function varint(data, at)
  local value, factor = 0, 1
  for i = 0, 4 do
    local byte = data:byte(at + i)
    if not byte then return nil end
    value = value + byte % 128 * factor
    if byte < 128 then
      if (i > 0 and byte == 0) or value >= 2147483648 then return nil end
      return value, at + i + 1
    end
    factor = factor * 128
  end
  return nil
end

-- Calls `field(number, first, last)` for each length-delimited field from
-- place `at` to `last`; returns whether all of it is well-formed.
local function fields(data, at, last, field)
  while at <= last do
    local tag
    tag, at = varint(data, at)
    if not tag or tag < 8 then return false end
    local wire = tag % 8
    if wire == 0 then
      -- The value may be long: its bytes are skipped.
      local count = 1
      while (data:byte(at) or 0) >= 128 do
        at, count = at + 1, count + 1
      end
      if count > 10 then return false end
      at = at + 1
    elseif wire == 1 then
      at = at + 8
    elseif wire == 5 then
      at = at + 4
    elseif wire == 2 then
      local size
      size, at = varint(data, at)
      if not size or at + size - 1 > last then return false end
      if not field((tag - wire) / 8, at, at + size - 1) then return false end
      at = at + size
    else
      return false
    end
  end
  return at == last + 1
end

-- Whether a Predict call names a signature that changes an index; nil where
-- the request is not understood.
local function changes(body)
  -- One message: not compressed, its length, its bytes.
  if #body < 5 or body:byte(1) ~= 0 then return nil end
  local a, b, c, d = body:byte(2, 5)
  if ((a * 256 + b) * 256 + c) * 256 + d ~= #body - 5 then return nil end
  local found = false
  local function of_model_spec(number, first, last)
    -- Of several values protobuf takes the last; here any one counts.
    if number == 3 and MUTATING[body:sub(first, last)] then found = true end
    return true
  end
  local function of_request(number, first, last)
    return number ~= 1 or fields(body, first, last, of_model_spec)
  end
  if not fields(body, 6, #body, of_request) then return nil end
  return found
end

-- The status and the message that a call is refused with; nil where it may
-- pass.
local function verdict(handle)
  local headers = handle:headers()
  local path = headers:get(":path")
  -- Before the body, which is waited for: headers are gone by then.
  local authenticated = has_token(headers)
  if OPEN[path] then return nil end
  if path == PREDICT then
    local buffer = handle:body()
    local size = buffer and buffer:length() or 0
    local answer = changes(size > 0 and buffer:getBytes(0, size) or "")
    if answer == nil then
      return INVALID_ARGUMENT,
        "The request must be one plain, uncompressed PredictRequest."
    end
    if not answer then return nil end
  elseif path ~= RELOAD then
    return UNIMPLEMENTED,
      "Only Predict and calls of models' state and metadata are let through."
  end
  if not authenticated then
    return UNAUTHENTICATED,
      "The call changes what is served: it must carry the metadata " ..
      "`authorization: Bearer TOKEN` with this server's token."
  end
  if READ_ONLY and path == PREDICT then
    return PERMISSION_DENIED,
      "The call changes the index, and this server is read-only."
  end
  return nil
end

function envoy_on_request(handle)
  -- Envoy lets a request pass whose filter fails.
  local worked, status, message = pcall(verdict, handle)
  if not worked then
    handle:logErr("envoy_guard.lua: " .. tostring(status))
    status, message = INTERNAL, "The filter of the proxy has failed."
  end
  if status then refuse(handle, status, message) end
end

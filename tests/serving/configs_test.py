# SPDX-License-Identifier: Apache-2.0
"""The files of serving_configs, and what the embedded server refuses."""

import pathlib
import re

import grpc
import pytest
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.config import model_server_config_pb2

from lintf.serving import model_config
from lintf.serving.errors import ServingError

CONFIGS = pathlib.Path(__file__).parents[2] / "serving_configs"


def _message_classes():
    """TF Serving's BatchingParameters and MonitoringConfig.

    tensorflow-serving-api carries neither; these have the fields that
    session_bundle_config.proto and monitoring_config.proto give them.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="lintf_test_configs.proto",
        package="lintf_test",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    batching = file.message_type.add(name="BatchingParameters")
    for number, name in enumerate(
        (
            "max_batch_size",
            "batch_timeout_micros",
            "max_enqueued_batches",
            "num_batch_threads",
        ),
        1,
    ):
        batching.field.add(
            name=name,
            number=number,
            label=field.LABEL_OPTIONAL,
            type=field.TYPE_MESSAGE,
            type_name=".google.protobuf.Int64Value",
        )
    batching.field.add(
        name="allowed_batch_sizes",
        number=6,
        label=field.LABEL_REPEATED,
        type=field.TYPE_INT64,
    )
    prometheus = file.message_type.add(name="PrometheusConfig")
    prometheus.field.add(
        name="enable",
        number=1,
        label=field.LABEL_OPTIONAL,
        type=field.TYPE_BOOL,
    )
    prometheus.field.add(
        name="path",
        number=2,
        label=field.LABEL_OPTIONAL,
        type=field.TYPE_STRING,
    )
    monitoring = file.message_type.add(name="MonitoringConfig")
    monitoring.field.add(
        name="prometheus_config",
        number=1,
        label=field.LABEL_OPTIONAL,
        type=field.TYPE_MESSAGE,
        type_name=".lintf_test.PrometheusConfig",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return [
        message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"lintf_test.{name}")
        )
        for name in ("BatchingParameters", "MonitoringConfig")
    ]


def test_models_config():
    config = model_config.read_config_file(str(CONFIGS / "models.config"))
    model_config.check(config)
    (model,) = config.model_config_list.config
    assert model.name == "movielens"
    found = {v: f"/models/movielens/{v}" for v in (1, 2, 3)}
    selected = model_config.select_versions(model.model_version_policy, found)
    # The current version, and one that is being caught up.
    assert sorted(selected) == [2, 3]
    text = (CONFIGS / "models.config").read_text(encoding="utf-8")
    labels = re.search(r"# (version_labels .*)", text)[1]
    model = text_format.Parse(labels, model_server_config_pb2.ModelConfig())
    assert dict(model.version_labels) == {"current": 1}


def test_batching_config():
    batching, _ = _message_classes()
    parameters = text_format.Parse(
        (CONFIGS / "batching.config").read_text(), batching()
    )
    assert parameters.max_batch_size.value > 1
    sizes = list(parameters.allowed_batch_sizes)
    # The server refuses to start otherwise.
    assert not sizes or sizes[-1] == parameters.max_batch_size.value


def test_monitoring_config():
    _, monitoring = _message_classes()
    config = text_format.Parse(
        (CONFIGS / "monitoring.config").read_text(), monitoring()
    )
    assert config.prometheus_config.enable
    assert config.prometheus_config.path.startswith("/")


def _config(**fields):
    config = model_server_config_pb2.ModelServerConfig()
    fields = {"name": "m", "base_path": "/m", **fields}
    config.model_config_list.config.add(**fields)
    return config


def test_config_of_a_single_model():
    config = model_config.single_model("m", "some/where")
    model_config.check(config)
    (model,) = config.model_config_list.config
    assert pathlib.Path(model.base_path) == pathlib.Path.cwd() / "some/where"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": ""}, "must have a name"),
        ({"base_path": "m"}, "absolute path or URI; got base_path()=m"),
        ({"base_path": ""}, "absolute path or URI"),
        ({"model_platform": "pytorch"}, "'tensorflow', got 'pytorch'"),
    ],
)
def test_configs_that_are_refused(fields, text):
    with pytest.raises(ServingError) as caught:
        model_config.check(_config(**fields))
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert text in caught.value.message


def test_model_listed_twice():
    config = _config()
    config.MergeFrom(_config())
    with pytest.raises(ServingError, match="multiple times"):
        model_config.check(config)


def test_empty_config():
    config = model_server_config_pb2.ModelServerConfig()
    with pytest.raises(ServingError, match="model_config_list"):
        model_config.check(config)


def test_missing_config_file(tmp_path):
    with pytest.raises(ValueError, match="can't be read"):
        model_config.read_config_file(str(tmp_path / "absent.config"))


def test_session_config():
    parsed = text_format.Parse(
        (CONFIGS / "session.config").read_text(), config_pb2.ConfigProto()
    )
    assert parsed.allow_soft_placement
    assert str(parsed).strip() == "allow_soft_placement: true"

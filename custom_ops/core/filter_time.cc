// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/filter_time.h"

namespace lintf {
namespace {

constexpr int64_t kSecondsPerDay = 24 * 60 * 60;
constexpr char kExpected[] =
    "expected a time as 2024-01-31, 2024-01-31T12:00:00Z or "
    "2024-01-31T12:00:00+01:00";

// Reads exactly `num_digits` digits off the front of `text`.
bool TakeDigits(int num_digits, std::string_view* text, int64_t* value) {
  if (static_cast<int>(text->size()) < num_digits) return false;
  *value = 0;
  for (int i = 0; i < num_digits; ++i) {
    const char c = (*text)[i];
    if (c < '0' || c > '9') return false;
    *value = *value * 10 + (c - '0');
  }
  text->remove_prefix(num_digits);
  return true;
}

bool TakeChar(char c, std::string_view* text) {
  if (text->empty() || text->front() != c) return false;
  text->remove_prefix(1);
  return true;
}

bool IsLeapYear(int64_t year) {
  return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

int64_t DaysInMonth(int64_t year, int64_t month) {
  constexpr int8_t kDays[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  return kDays[month - 1] + (month == 2 && IsLeapYear(year) ? 1 : 0);
}

// Days from 0001-01-01 to the date, in the Gregorian calendar.
int64_t DayNumber(int64_t year, int64_t month, int64_t day) {
  const int64_t y = year - 1;
  int64_t days = y * 365 + y / 4 - y / 100 + y / 400;
  for (int64_t m = 1; m < month; ++m) days += DaysInMonth(year, m);
  return days + day - 1;
}

}  // namespace

std::string ParseIsoTime(std::string_view text, int64_t* seconds) {
  int64_t year, month, day;
  if (!TakeDigits(4, &text, &year) || !TakeChar('-', &text) ||
      !TakeDigits(2, &text, &month) || !TakeChar('-', &text) ||
      !TakeDigits(2, &text, &day)) {
    return kExpected;
  }
  if (year < 1) return "the year must be 0001 to 9999";
  if (month < 1 || month > 12) return "the month must be 01 to 12";
  const int64_t num_days = DaysInMonth(year, month);
  if (day < 1 || day > num_days) {
    return "the day must be 01 to " + std::to_string(num_days) +
           " in that month";
  }
  *seconds =
      (DayNumber(year, month, day) - DayNumber(1970, 1, 1)) * kSecondsPerDay;
  if (text.empty()) return "";

  int64_t hour, minute, second = 0;
  if (!TakeChar('T', &text) && !TakeChar(' ', &text)) return kExpected;
  if (!TakeDigits(2, &text, &hour) || !TakeChar(':', &text) ||
      !TakeDigits(2, &text, &minute)) {
    return kExpected;
  }
  if (TakeChar(':', &text) && !TakeDigits(2, &text, &second)) return kExpected;
  if (!text.empty() && (text.front() == '.' || text.front() == ',')) {
    return "timestamps are whole seconds; leave the fraction out";
  }
  if (hour > 23) return "the hour must be 00 to 23";
  if (minute > 59) return "the minute must be 00 to 59";
  if (second > 59) return "the second must be 00 to 59";
  *seconds += hour * 3600 + minute * 60 + second;

  if (text.empty() || text == "Z") return "";
  const int64_t sign = text.front() == '-' ? -1 : 1;
  if (!TakeChar('+', &text) && !TakeChar('-', &text)) return kExpected;
  int64_t offset_hours, offset_minutes;
  if (!TakeDigits(2, &text, &offset_hours) || !TakeChar(':', &text) ||
      !TakeDigits(2, &text, &offset_minutes) || !text.empty()) {
    return kExpected;
  }
  if (offset_hours > 23 || offset_minutes > 59) {
    return "the offset must be -23:59 to +23:59";
  }
  *seconds -= sign * (offset_hours * 3600 + offset_minutes * 60);
  return "";
}

}  // namespace lintf

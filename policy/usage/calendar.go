package usage

import (
	"fmt"
	"time"
)

// Hour is an hour in UTC: Unix seconds divided by 3,600.
type Hour uint32

// Day is a day in UTC: Unix seconds divided by 86,400.
type Day uint32

// Month is a calendar month in UTC: 12 times the year, and the month less one.
type Month uint32

const hoursADay = 24

// HourOf returns the hour that t is in. Times before 1970 are in its first hour.
func HourOf(t time.Time) Hour { return Hour(max(t.Unix(), 0) / 3600) }

// DayOf returns the day that t is in.
func DayOf(t time.Time) Day { return HourOf(t).Day() }

// MonthOf returns the month that t is in.
func MonthOf(t time.Time) Month { return DayOf(t).Month() }

// Day returns the day that the hour is in.
func (h Hour) Day() Day { return Day(h / hoursADay) }

// OfDay returns the hour's number in its day, 0 to 23.
func (h Hour) OfDay() int { return int(h % hoursADay) }

// Start returns when the hour begins.
func (h Hour) Start() time.Time { return time.Unix(int64(h)*3600, 0).UTC() }

// Start returns when the day begins.
func (d Day) Start() time.Time { return d.Hour(0).Start() }

// Hour returns an hour of the day, 0 to 23.
func (d Day) Hour(n int) Hour { return Hour(d)*hoursADay + Hour(n) }

// Month returns the month that the day is in.
func (d Day) Month() Month {
	year, month, _ := d.Start().Date()
	return Month(year*12 + int(month) - 1)
}

// OfMonth returns the day's number in its month, from 1.
func (d Day) OfMonth() int { return d.Start().Day() }

// String returns the day as the names of Redis keys have it, such as 20261130.
func (d Day) String() string { return d.Start().Format("20060102") }

// Start returns when the month begins.
func (m Month) Start() time.Time {
	return time.Date(int(m/12), time.Month(m%12+1), 1, 0, 0, 0, 0, time.UTC)
}

// End returns when the month is over.
func (m Month) End() time.Time { return (m + 1).Start() }

// First returns the month's first day.
func (m Month) First() Day { return DayOf(m.Start()) }

// String returns the month as the names of Redis keys have it, such as 202611.
func (m Month) String() string { return fmt.Sprintf("%04d%02d", m/12, m%12+1) }

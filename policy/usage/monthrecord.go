package usage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MonthRecord is what one subject did in one month: by day, and in one sum for the days that are no
// longer told apart.
type MonthRecord struct {
	Days map[int]*DayUsage // by the day of the month, from 1
	Rest *DayUsage         // nil for none
}

// Total returns the sum of all days.
func (m *MonthRecord) Total() *DayUsage {
	sum := &DayUsage{}
	if m.Rest != nil {
		sum.Add(m.Rest)
	}
	for _, day := range m.sortedDays() {
		sum.Add(m.Days[day])
	}
	return sum
}

// Trim makes one sum of all days.
func (m *MonthRecord) Trim() { m.Rest, m.Days = m.Total(), nil }

func (m *MonthRecord) sortedDays() []int {
	days := make([]int, 0, len(m.Days))
	for day := range m.Days {
		days = append(days, day)
	}
	slices.Sort(days)
	return days
}

// A record is encoded without field names, in numbers that take as many bytes as they need: a month
// in which a key was used each day takes some 800 bytes for each route.
//
//	version, n, n times the name of a route; n, n times a day
//	day:     number (0 is Rest), n, n times usage of a route; n, n times reason and requests
//	route:   place of its name, which of these there are (one byte), allowed,
//	         denied, cost less allowed, and of the log: observed less allowed, requests without
//	         status, with 3xx, 4xx, 5xx, bytes in, bytes out, ms, longest ms, slow requests
//
// Numbers are those of encoding/binary, differences signed.
const recordVersion = 1

// What of a route there is.
const (
	hasDenied = 1 << iota
	hasCost   // that is not one for each allowed request
	hasSeen
	hasNoStatus
	has3xx
	has4xx
	has5xx
	hasSlow
)

// Encode returns the record as bytes.
func (m *MonthRecord) Encode() []byte {
	var names []string
	place := func(route string) uint64 {
		i := slices.Index(names, route)
		if i < 0 {
			i = len(names)
			names = append(names, route)
		}
		return uint64(i)
	}
	n := len(m.Days)
	var days []byte
	if m.Rest != nil {
		n++
		days = appendDay(days, 0, m.Rest, place)
	}
	for _, day := range m.sortedDays() {
		days = appendDay(days, day, m.Days[day], place)
	}
	b := binary.AppendUvarint([]byte{recordVersion}, uint64(len(names)))
	for _, name := range names {
		b = appendText(b, name)
	}
	return append(binary.AppendUvarint(b, uint64(n)), days...)
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

func appendDay(b []byte, number int, d *DayUsage, place func(string) uint64) []byte {
	b = binary.AppendUvarint(append(b, byte(number)), uint64(len(d.Routes)))
	for _, r := range d.Routes {
		b = appendMeasures(binary.AppendUvarint(b, place(r.Route)), &r.Measures)
	}
	b = binary.AppendUvarint(b, uint64(len(d.Reasons)))
	for _, r := range d.Reasons {
		b = binary.AppendUvarint(appendReason(b, r.Reason), r.N)
	}
	return b
}

func appendMeasures(b []byte, m *Measures) []byte {
	mask := len(b)
	b = binary.AppendUvarint(append(b, 0), m.Allowed)
	put := func(bit byte, n uint64) {
		if n > 0 {
			b[mask] |= bit
			b = binary.AppendUvarint(b, n)
		}
	}
	put(hasDenied, m.Denied)
	if m.Cost != m.Allowed {
		b[mask] |= hasCost
		b = binary.AppendVarint(b, int64(m.Cost-m.Allowed))
	}
	observed := m.Observed()
	if observed == 0 {
		return b
	}
	b[mask] |= hasSeen
	b = binary.AppendVarint(b, int64(observed-m.Allowed))
	put(hasNoStatus, m.Status[StatusNone])
	put(has3xx, m.Status[Status3xx])
	put(has4xx, m.Status[Status4xx])
	put(has5xx, m.Status[Status5xx])
	for _, n := range []uint64{m.BytesIn, m.BytesOut, m.Millis, m.MaxMillis} {
		b = binary.AppendUvarint(b, n)
	}
	put(hasSlow, m.Slow)
	return b
}

// errRecord says that bytes are no record.
var errRecord = errors.New("usage: not a record of a month")

// DecodeMonth reads what Encode has returned. No bytes are an empty record. What follows from
// numbers that no Encode can have written is not said.
func DecodeMonth(data []byte) (*MonthRecord, error) {
	m := &MonthRecord{}
	day := func(number int) *DayUsage {
		switch {
		case number == 0:
			if m.Rest == nil {
				m.Rest = &DayUsage{}
			}
			return m.Rest
		case m.Days == nil:
			m.Days = map[int]*DayUsage{}
		}
		if m.Days[number] == nil {
			m.Days[number] = &DayUsage{}
		}
		return m.Days[number]
	}
	err := walk(data, visitor{
		day: func(number int) { day(number) },
		route: func(number int, name string, measures *Measures) {
			d := day(number)
			d.Routes = append(d.Routes, &RouteUsage{Route: name, Measures: *measures})
		},
		reason: func(number int, name string, n uint64) {
			d := day(number)
			d.Reasons = append(d.Reasons, ReasonCount{name, n})
		},
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// WalkMonth calls route and reason for what an encoded record holds of each day of the month, 0 for
// the sum of those that are no longer told apart. It calls neither for bytes that are no record.
func WalkMonth(data []byte, route func(day int, name string, m *Measures), reason func(day int, name string, n uint64)) error {
	if err := walk(data, visitor{}); err != nil {
		return err
	}
	return walk(data, visitor{route: route, reason: reason})
}

// visitor is told what a record holds; what is nil is told nothing.
type visitor struct {
	day    func(number int)
	route  func(day int, name string, m *Measures)
	reason func(day int, name string, n uint64)
}

func walk(data []byte, v visitor) error {
	if len(data) == 0 {
		return nil
	}
	d := decoder{b: data}
	if version := d.byte(); version != recordVersion {
		return fmt.Errorf("%w: version %d", errRecord, version)
	}
	names := make([]string, 0, 8)
	for range d.count() {
		names = append(names, d.text())
	}
	for range d.count() {
		number := int(d.byte())
		if v.day != nil {
			v.day(number)
		}
		d.routes(number, names, &v)
		d.reasons(number, &v)
	}
	if d.bad || len(d.b) > 0 {
		return errRecord
	}
	return nil
}

// decoder reads from b until something is bad, and nothing afterwards.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() { d.b, d.bad = nil, true }

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads how many things follow, each of which has a byte at least.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) text() string {
	n := d.count()
	text := string(d.b[:n])
	d.b = d.b[n:]
	return text
}

func (d *decoder) routes(day int, names []string, v *visitor) {
	var m Measures
	for range d.count() {
		place := d.uint()
		if place >= uint64(len(names)) {
			d.fail()
			return
		}
		if m = d.measures(); v.route != nil {
			v.route(day, names[place], &m)
		}
	}
}

func (d *decoder) reasons(day int, v *visitor) {
	for range d.count() {
		reason := d.reason()
		if n := d.uint(); v.reason != nil {
			v.reason(day, reason, n)
		}
	}
}

func (d *decoder) measures() (m Measures) {
	mask := d.byte()
	m.Allowed = d.uint()
	if mask&hasDenied != 0 {
		m.Denied = d.uint()
	}
	m.Cost = m.Allowed
	if mask&hasCost != 0 {
		m.Cost += uint64(d.int())
	}
	if mask&hasSeen == 0 {
		return m
	}
	rest := m.Allowed + uint64(d.int())
	for _, of := range []struct {
		class int
		bit   byte
	}{{StatusNone, hasNoStatus}, {Status3xx, has3xx}, {Status4xx, has4xx}, {Status5xx, has5xx}} {
		if mask&of.bit != 0 {
			m.Status[of.class] = d.uint()
			rest -= m.Status[of.class]
		}
	}
	m.Status[Status2xx] = rest
	m.BytesIn, m.BytesOut, m.Millis, m.MaxMillis = d.uint(), d.uint(), d.uint(), d.uint()
	if mask&hasSlow != 0 {
		m.Slow = d.uint()
	}
	return m
}

// reasons are the names of reasons that a record says with one byte: the place, from 1. Names are
// only ever added, at the end.
func reasons() [20]string {
	return [...]string{
		"unknown_api", "missing_credential", "malformed_credential", "unknown_key", "revoked_key", "wrong_environment",
		"inactive_key", "expired_key", "address_denied", "scope_denied", "route_denied", "rate_limited", "quota_exceeded",
		"corrupt_key", "lookup_refused", "undecided", "concurrency_exceeded",
		"invalid_token", "expired_token", "insufficient_scope",
	}
}

// laterReason begins the name of a reason that a later version has written.
const laterReason = "reason "

// appendReason appends a reason's place, or 0 and its name.
func appendReason(b []byte, reason string) []byte {
	all := reasons()
	if i := slices.Index(all[:], reason); i >= 0 {
		return append(b, byte(i+1))
	}
	if n, err := strconv.ParseUint(strings.TrimPrefix(reason, laterReason), 10, 8); err == nil && n > 0 {
		return append(b, byte(n))
	}
	return appendText(append(b, 0), reason)
}

func (d *decoder) reason() string {
	i := d.byte()
	if i == 0 {
		return d.text()
	}
	if all := reasons(); int(i) <= len(all) {
		return all[i-1]
	}
	return laterReason + strconv.Itoa(int(i))
}

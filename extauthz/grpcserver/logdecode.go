package grpcserver

import (
	"net/netip"
	"strings"
	"time"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"

	"tollgate/extauthz"
	"tollgate/policy"
)

// What a part of a StreamAccessLogsMessage is to us.
const (
	takeNode take = iota + 1
	takeLogName
	takeHTTPLogs
	takeTCPLogs
	takeTCPEntry
	takeEntry // its begin and its end
	takeStart
	takeStartSeconds
	takeStartNanos
	takeSent // the time of the last byte to the client
	takeSentSeconds
	takeSentNanos
	takeDuration
	takeDurationSeconds
	takeDurationNanos
	takeType
	takeIntermediate
	takeRequestID
	takeRequestBytes
	takeCode
	takeResponseBytes
	takeClient
	takeNoClient // another kind of address than an IP one, which replaces it
	takeFilter   // the metadata of a filter, its begin and its end
	takeFilterName
	takeField // one of its fields, its begin and its end
	takeFieldName
	takeText
	takeNoText // a value of another kind, which replaces a text
)

// logsMessage returns the shape of a StreamAccessLogsMessage, with what we need of it: never the
// path of a request, which holds the key of one that was refused, nor a header. The numbers are
// those of envoy/service/accesslog/v3/als.proto, envoy/data/accesslog/v3/accesslog.proto,
// envoy/config/core/v3/address.proto and base.proto and of Google's timestamp.proto,
// duration.proto, wrappers.proto and struct.proto.
func logsMessage() *shape {
	root := shapes{}.of((&accesslogv3.StreamAccessLogsMessage{}).ProtoReflect().Descriptor())
	identifier := root.own(1)
	identifier.own(1).fields[1].take = takeNode
	identifier.fields[2].take = takeLogName

	root.fields[2].take, root.fields[3].take = takeHTTPLogs, takeTCPLogs
	root.own(3).fields[1].take = takeTCPEntry
	logs := root.own(2)
	entry := logs.own(1)
	logs.fields[1].take, entry.end = takeEntry, takeEntry

	common := entry.own(1)
	client := common.own(2)
	client.own(1).fields[2].take = takeClient
	client.fields[2].take, client.fields[3].take = takeNoClient, takeNoClient
	common.takeTime(5, takeStart)
	common.takeTime(12, takeSent)
	common.takeTime(23, takeDuration)
	common.takeNumber(27, varintField, takeIntermediate)
	common.takeNumber(33, varintField, takeType)
	common.own(17).takeStructs(1)

	request, response := entry.own(3), entry.own(4)
	request.fields[9].take = takeRequestID
	request.takeNumber(12, varintField, takeRequestBytes)
	response.own(1).takeNumber(1, varintField, takeCode)
	response.takeNumber(3, varintField, takeResponseBytes)
	return root
}

// takeTime takes a Timestamp or a Duration: t is its begin, and those after t its seconds and
// nanoseconds.
func (s *shape) takeTime(number protowire.Number, t take) {
	s.fields[number].take = t
	parts := s.own(number)
	parts.takeNumber(1, varintField, t+1)
	parts.takeNumber(2, varintField, t+2)
}

// takeStructs takes the texts in a map of Structs.
func (s *shape) takeStructs(number protowire.Number) {
	s.fields[number].take = takeFilter
	filter := s.own(number)
	filter.fields[1].take, filter.end = takeFilterName, takeFilter
	fields := filter.own(2)
	fields.fields[1].take = takeField
	field := fields.own(1)
	field.fields[1].take, field.end = takeFieldName, takeField
	value := field.own(2)
	value.takeNumber(1, varintField, takeNoText)
	value.takeNumber(2, fixed64Field, takeNoText)
	value.fields[3].take = takeText
	value.takeNumber(4, varintField, takeNoText)
	value.fields[5].take, value.fields[6].take = takeNoText, takeNoText
}

// ourFilter is under which name Envoy keeps what a decision says.
const ourFilter = "envoy.filters.http.ext_authz"

// maxText is how long a text of an entry may be, in bytes. A longer one is none of ours.
const maxText = 256

// textsRoom is how much room texts get at a time.
const textsRoom = 4 << 10

// metadata are the fields of ours.
type metadata struct {
	decisionID, reason, api, route, keyID, team, plan, slotID, limitID []byte
}

// moment is a Timestamp or a Duration.
type moment struct {
	given   bool
	seconds int64
	nanos   int32
}

// logEntry is what was met of the entry that is being read.
type logEntry struct {
	start, sent, duration moment
	kind                  datav3.AccessLogType
	intermediate          bool
	requestID, client     []byte
	code                  uint32
	bytesIn, bytesOut     uint64
	ours                  metadata

	// The filter whose metadata is being read, which is known for ours at its end.
	filter       []byte
	filterFields metadata
	name, text   []byte
}

// logDecoder turns the bytes of StreamAccessLogsMessages into entries, each of which is handed on
// when it has been read. It is used by one goroutine at a time, for one stream.
type logDecoder struct {
	shape   *shape
	reasons map[string]string // the names of the policy's reasons, by themselves
	hand    func(*extauthz.AccessLogEntry)

	set           *policy.Set
	node, logName []byte // of the identifier that the message has
	ours          bool   // the log has our name
	replaced      int    // less than 0 once the parts of the message are reached that no later one replaces
	entry         logEntry
	counts        extauthz.LogCounts
	ended         time.Time // when the last of the requests that ended did; zero for none
	out           extauthz.AccessLogEntry
	texts         strings.Builder
}

func newLogDecoder(s *shape, hand func(*extauthz.AccessLogEntry)) *logDecoder {
	d := &logDecoder{shape: s, hand: hand, reasons: map[string]string{}}
	for _, r := range policy.Reasons() {
		d.reasons[r.String()] = r.String()
	}
	return d
}

// identifier finds what a message says of its stream, and which of its parts count: those for HTTP
// and for TCP replace each other.
func (d *logDecoder) identifier(b []byte) error {
	d.node, d.logName, d.replaced = nil, nil, 0
	parts, last := 0, protowire.Number(0)
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(number, wire, b); n < 0 {
			return errWire
		}
		switch value, _ := protowire.ConsumeBytes(b); {
		case wire != protowire.BytesType:
		case number == 1:
			if err := d.shape.fields[1].read(value, protowire.DefaultRecursionLimit-1, d); err != nil {
				return err
			}
		case number == 2 || number == 3:
			if number != last {
				d.replaced, last = parts, number
			}
			parts++
		}
		b = b[n:]
	}
	return nil
}

// entries reads the entries of a message of which the identifier was read, and hands them on if the
// log is ours. Those before a fault are handed on.
func (d *logDecoder) entries(b []byte, set *policy.Set, ours bool) error {
	d.set, d.ours, d.counts, d.ended = set, ours, extauthz.LogCounts{}, time.Time{}
	err := d.shape.walk(b, protowire.DefaultRecursionLimit, d)
	// gRPC uses b again.
	d.set, d.node, d.logName, d.entry, d.out = nil, nil, nil, logEntry{}, extauthz.AccessLogEntry{}
	return err
}

// take implements sink.
func (d *logDecoder) take(t take, b []byte) {
	e := &d.entry
	switch t {
	case takeNode:
		d.node = b
	case takeLogName:
		d.logName = b
	case takeHTTPLogs, takeTCPLogs:
		d.replaced--
	case takeTCPEntry:
		if d.replaced < 0 {
			d.counts[extauthz.LogTCP]++
		}
	case takeEntry:
		d.entry = logEntry{}
	case takeStart:
		e.start.given = true
	case takeSent:
		e.sent.given = true
	case takeDuration:
		e.duration.given = true
	case takeRequestID:
		e.requestID = bounded(b)
	case takeClient:
		e.client = bounded(b)
	case takeNoClient:
		e.client = nil
	case takeFilter:
		e.filter, e.filterFields = nil, metadata{}
	case takeFilterName:
		e.filter = b
	case takeField:
		e.name, e.text = nil, nil
	case takeFieldName:
		e.name = b
	case takeText:
		e.text = b
	case takeNoText:
		e.text = nil
	}
}

// number implements sink.
func (d *logDecoder) number(t take, n uint64) {
	e := &d.entry
	switch t {
	case takeStartSeconds:
		e.start.seconds = int64(n)
	case takeStartNanos:
		e.start.nanos = int32(n)
	case takeSentSeconds:
		e.sent.seconds = int64(n)
	case takeSentNanos:
		e.sent.nanos = int32(n)
	case takeDurationSeconds:
		e.duration.seconds = int64(n)
	case takeDurationNanos:
		e.duration.nanos = int32(n)
	case takeType:
		e.kind = datav3.AccessLogType(int32(n))
	case takeIntermediate:
		e.intermediate = protowire.DecodeBool(n)
	case takeRequestBytes:
		e.bytesIn = n
	case takeCode:
		e.code = uint32(n)
	case takeResponseBytes:
		e.bytesOut = n
	case takeNoText:
		e.text = nil
	}
}

// end implements sink.
func (d *logDecoder) end(t take) {
	e := &d.entry
	switch t {
	case takeField:
		e.filterFields.set(e.name, e.text)
	case takeFilter:
		if string(e.filter) == ourFilter {
			e.ours = e.filterFields
		}
	case takeEntry:
		switch {
		case d.replaced >= 0:
		case !d.ours:
			d.counts[extauthz.LogOther]++
		default:
			d.handOn()
		}
	}
}

func bounded(text []byte) []byte {
	if len(text) > maxText {
		return nil
	}
	return text
}

func (m *metadata) set(name, text []byte) {
	text = bounded(text)
	switch string(name) {
	case "decision_id":
		m.decisionID = text
	case "reason":
		m.reason = text
	case "api":
		m.api = text
	case "route":
		m.route = text
	case "key_id":
		m.keyID = text
	case "team":
		m.team = text
	case "plan":
		m.plan = text
	case "slot_id":
		m.slotID = text
	case "limit_id":
		m.limitID = text
	}
}

// handOn hands on the entry that has been read, if it is of a request that has ended or goes on.
func (d *logDecoder) handOn() {
	e := &d.entry
	periodic := false
	switch e.kind {
	case datav3.AccessLogType_DownstreamEnd:
	case datav3.AccessLogType_NotSet: // an Envoy that is too old to say
		periodic = e.intermediate
	case datav3.AccessLogType_DownstreamPeriodic:
		periodic = true
	default:
		d.counts[extauthz.LogOtherType]++
		return
	}
	kind := extauthz.LogEnded
	switch {
	case len(e.ours.decisionID) == 0 || len(e.ours.reason) == 0:
		kind, e.ours = extauthz.LogForeign, metadata{}
	case periodic:
		kind = extauthz.LogPeriodic
	}
	d.counts[kind]++
	d.fill(periodic)
	if ended := d.out.Start.Add(d.out.Duration); !periodic && e.start.given && ended.After(d.ended) {
		d.ended = ended
	}
	if kind != extauthz.LogForeign || d.out.RequestID != "" {
		d.hand(&d.out)
	}
}

func (d *logDecoder) fill(periodic bool) {
	e := &d.entry
	d.out = extauthz.AccessLogEntry{
		API: d.name(e.ours.api), Route: d.name(e.ours.route), Plan: d.name(e.ours.plan), Reason: d.reason(e.ours.reason),
		DecisionID: d.string(e.ours.decisionID), KeyID: d.string(e.ours.keyID), Team: d.string(e.ours.team),
		SlotID: d.string(e.ours.slotID), LimitID: d.string(e.ours.limitID), RequestID: d.string(e.requestID),
		Code: int(e.code), BytesIn: e.bytesIn, BytesOut: e.bytesOut, Periodic: periodic,
	}
	if e.code >= 500 && len(e.client) > 0 {
		// It is the invalid address for what is none, such as a name.
		client, _ := netip.ParseAddr(string(e.client))
		d.out.Client = client.Unmap().WithZone("")
	}
	if e.start.given {
		d.out.Start = time.Unix(e.start.seconds, int64(e.start.nanos)).UTC()
	}
	if e.duration.given {
		d.out.Duration = e.duration.length()
	} else {
		d.out.Duration = e.sent.length()
	}
}

// length is how long a Duration is; one that is less than 0 is 0.
func (m moment) length() time.Duration {
	d := durationpb.Duration{Seconds: m.seconds, Nanos: m.nanos}
	return max(d.AsDuration(), 0)
}

// name is one of the policies' names.
func (d *logDecoder) name(b []byte) string {
	if s := d.set.Name(b); s != "" {
		return s
	}
	return d.string(b)
}

func (d *logDecoder) reason(b []byte) string {
	if s, ok := d.reasons[string(b)]; ok {
		return s
	}
	return d.string(b)
}

// string copies a text to the others of its message.
func (d *logDecoder) string(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if d.texts.Cap()-d.texts.Len() < len(b) {
		d.texts = strings.Builder{}
		d.texts.Grow(textsRoom)
	}
	start := d.texts.Len()
	d.texts.Write(b)
	return d.texts.String()[start:]
}

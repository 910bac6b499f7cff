package grpcserver_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/grpcserver"
	"tollgate/policy"
)

// logByGeneratedCode is what decoding has to find, said with the generated types.
func logByGeneratedCode(b []byte) (*grpcserver.LogMessage, error) {
	message := &accesslogv3.StreamAccessLogsMessage{}
	if err := proto.Unmarshal(b, message); err != nil {
		return nil, err
	}
	m := &grpcserver.LogMessage{Node: message.GetIdentifier().GetNode().GetId(), Name: message.GetIdentifier().GetLogName()}
	m.Counts[extauthz.LogTCP] = uint64(len(message.GetTcpLogs().GetLogEntry()))
	for _, e := range message.GetHttpLogs().GetLogEntry() {
		common := e.GetCommonProperties()
		text := func(name string) string {
			text := common.GetMetadata().GetFilterMetadata()["envoy.filters.http.ext_authz"].GetFields()[name].GetStringValue()
			if len(text) > 256 {
				return ""
			}
			return text
		}
		//lint:ignore SA1019 it is what Envoys without access_log_type say
		old := common.GetIntermediateLogEntry()
		out := extauthz.AccessLogEntry{
			Code: int(e.GetResponse().GetResponseCode().GetValue()), BytesIn: e.GetRequest().GetRequestBodyBytes(),
			BytesOut: e.GetResponse().GetResponseBodyBytes(), RequestID: e.GetRequest().GetRequestId(),
			Periodic: common.GetAccessLogType() == datav3.AccessLogType_DownstreamPeriodic ||
				common.GetAccessLogType() == datav3.AccessLogType_NotSet && old,
		}
		if len(out.RequestID) > 256 {
			out.RequestID = ""
		}
		if text := common.GetDownstreamRemoteAddress().GetSocketAddress().GetAddress(); out.Code >= 500 && len(text) <= 256 {
			client, _ := netip.ParseAddr(text)
			out.Client = client.Unmap().WithZone("")
		}
		if start := common.GetStartTime(); start != nil {
			out.Start = start.AsTime()
		}
		took := common.GetTimeToLastDownstreamTxByte()
		if common.GetDuration() != nil {
			took = common.GetDuration()
		}
		out.Duration = max(took.AsDuration(), 0)
		kind := extauthz.LogEnded
		switch kinds := datav3.AccessLogType_name; {
		case common.GetAccessLogType() != datav3.AccessLogType_NotSet && !strings.HasPrefix(kinds[int32(common.GetAccessLogType())], "Downstream"),
			common.GetAccessLogType() == datav3.AccessLogType_DownstreamStart, common.GetAccessLogType() == datav3.AccessLogType_DownstreamTunnelSuccessfullyEstablished:
			m.Counts[extauthz.LogOtherType]++
			continue
		case text("decision_id") == "" || text("reason") == "":
			kind = extauthz.LogForeign
		default:
			if out.Periodic {
				kind = extauthz.LogPeriodic
			}
			out.DecisionID, out.Reason, out.API, out.Route = text("decision_id"), text("reason"), text("api"), text("route")
			out.KeyID, out.Team, out.Plan, out.SlotID = text("key_id"), text("team"), text("plan"), text("slot_id")
		}
		m.Counts[kind]++
		if !out.Periodic && !out.Start.IsZero() && out.Start.Add(out.Duration).After(m.Ended) {
			m.Ended = out.Start.Add(out.Duration)
		}
		if kind != extauthz.LogForeign || out.RequestID != "" {
			m.Entries = append(m.Entries, out)
		}
	}
	return m, nil
}

func compareLogDecoders(t interface{ Fatalf(string, ...any) }, set *policy.Set, b []byte) {
	want, wantErr := logByGeneratedCode(b)
	got, err := grpcserver.DecodeLog(b, set)
	switch {
	case (err == nil) != (wantErr == nil):
		t.Fatalf("%x: error %v, the generated code says %v", b, err, wantErr)
	case err == nil && !reflect.DeepEqual(got, want):
		t.Fatalf("%x:\n%+v\nthe generated code says\n%+v", b, got, want)
	}
}

// recordedLogs are messages that a real Envoy sent, the first one on a stream too, which is large.
func recordedLogs(t testing.TB) (all [][]byte) {
	t.Helper()
	names, err := filepath.Glob("../../testdata/accesslog/*.binpb")
	if err != nil || len(names) == 0 {
		t.Fatalf("no recorded messages: %v", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// decided is the metadata of a decision, and more than that.
func decided(t testing.TB, more map[string]any) *corev3.Metadata {
	t.Helper()
	fields := map[string]any{
		"decision_id": "0123456789abcdef", "reason": "allowed", "api": "small", "route": "item", "key_id": "key_small", "team": "team_s",
		"plan": "basic", "slot_id": "slot", "ext_authz_duration": 1.5, "scope": "read",
	}
	for name, value := range more {
		fields[name] = value
	}
	s, err := structpb.NewStruct(fields)
	if err != nil {
		t.Fatal(err)
	}
	other, err := structpb.NewStruct(map[string]any{"decision_id": "of another filter", "reason": []any{"x", map[string]any{"y": nil}}})
	if err != nil {
		t.Fatal(err)
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.filters.http.ext_authz": s, "other": other}}
}

// ended is the entry of a request that has ended.
func ended(t testing.TB) *datav3.HTTPAccessLogEntry {
	return &datav3.HTTPAccessLogEntry{
		CommonProperties: &datav3.AccessLogCommon{
			AccessLogType: datav3.AccessLogType_DownstreamEnd, StartTime: &timestamppb.Timestamp{Seconds: 1_800_000_000, Nanos: 5},
			Duration: durationpb.New(1_500 * time.Millisecond), TimeToLastDownstreamTxByte: durationpb.New(time.Second), Metadata: decided(t, nil),
		},
		Request: &datav3.HTTPRequestProperties{RequestId: "c7d3b3a4-9f0e-4c2e-8a36-0d2b1a3c4d5e", RequestBodyBytes: 7, Path: "/items/1?api_key=sm_secret",
			RequestHeaders: map[string]string{"authorization": "sm_secret"}},
		Response: &datav3.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(207), ResponseBodyBytes: 1 << 40},
	}
}

func logOf(t testing.TB, entries ...*datav3.HTTPAccessLogEntry) []byte {
	t.Helper()
	b, err := proto.Marshal(&accesslogv3.StreamAccessLogsMessage{
		Identifier: &accesslogv3.StreamAccessLogsMessage_Identifier{Node: &corev3.Node{Id: "edge", Cluster: "c"}, LogName: "tollgate"},
		LogEntries: &accesslogv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: &accesslogv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// variants are entries of every kind, most of which a real Envoy never sends.
func variants(t testing.TB) (all []*datav3.HTTPAccessLogEntry) {
	t.Helper()
	for kind := range datav3.AccessLogType_name {
		e := ended(t)
		e.CommonProperties.AccessLogType = datav3.AccessLogType(kind)
		all = append(all, e)
	}
	change := func(f func(*datav3.HTTPAccessLogEntry)) {
		e := ended(t)
		f(e)
		all = append(all, e)
	}
	change(func(e *datav3.HTTPAccessLogEntry) {
		e.CommonProperties.AccessLogType = 0
		//lint:ignore SA1019 it is what Envoys without access_log_type say
		e.CommonProperties.IntermediateLogEntry = true
	})
	change(func(e *datav3.HTTPAccessLogEntry) { e.CommonProperties.Duration = nil })
	change(func(e *datav3.HTTPAccessLogEntry) {
		e.CommonProperties.Duration = &durationpb.Duration{Seconds: -5, Nanos: 7}
	})
	change(func(e *datav3.HTTPAccessLogEntry) {
		e.CommonProperties.Duration = &durationpb.Duration{Seconds: 1 << 62, Nanos: 7}
	})
	change(func(e *datav3.HTTPAccessLogEntry) { e.CommonProperties.StartTime = nil })
	change(func(e *datav3.HTTPAccessLogEntry) { e.CommonProperties.Metadata = nil })
	change(func(e *datav3.HTTPAccessLogEntry) { e.CommonProperties.Metadata, e.Request.RequestId = nil, "" })
	change(func(e *datav3.HTTPAccessLogEntry) {
		e.CommonProperties.Metadata = decided(t, map[string]any{"decision_id": 7.0})
	})
	change(func(e *datav3.HTTPAccessLogEntry) {
		e.CommonProperties.Metadata = decided(t, map[string]any{"reason": strings.Repeat("r", 257), "team": strings.Repeat("t", 256)})
	})
	change(func(e *datav3.HTTPAccessLogEntry) {
		e.CommonProperties.Metadata = decided(t, map[string]any{"key_id": true, "plan": nil, "team": []any{"t"}, "route": map[string]any{"string_value": "x"}, "api": "unknown", "slot_id": ""})
	})
	change(func(e *datav3.HTTPAccessLogEntry) { e.Request.RequestId = strings.Repeat("i", 257) })
	return append(all, &datav3.HTTPAccessLogEntry{})
}

// addressed are entries of clients with addresses of every kind.
func addressed(t testing.TB) (all []*datav3.HTTPAccessLogEntry) {
	t.Helper()
	for _, address := range []*corev3.Address{
		extauthztest.SocketAddress(netip.MustParseAddr("203.0.113.77")), extauthztest.SocketAddress(netip.MustParseAddr("::ffff:203.0.113.77")),
		extauthztest.SocketAddress(netip.MustParseAddr("fe80::1%eth0")), extauthztest.SocketAddress(netip.Addr{}),
		{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "203.0.113.77"}}}, {},
	} {
		for _, code := range []uint32{499, 500, 503} {
			e := ended(t)
			e.CommonProperties.DownstreamRemoteAddress, e.Response.ResponseCode.Value = address, code
			all = append(all, e)
		}
	}
	return all
}

// nested is a field of bytes inside others.
func nested(b []byte, path ...protowire.Number) []byte {
	for _, n := range slices.Backward(path) {
		b = protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), b)
	}
	return b
}

// logSeeds are messages of every kind, and what Envoy never sends.
func logSeeds(t testing.TB) [][]byte {
	t.Helper()
	small := slices.DeleteFunc(recordedLogs(t), func(b []byte) bool { return len(b) > 4<<10 })
	failed, err := proto.Marshal(&datav3.HTTPAccessLogEntry{Response: &datav3.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(503)}, Request: &datav3.HTTPRequestProperties{RequestId: "r"}})
	if err != nil {
		t.Fatal(err)
	}
	all := append(small, nil, logOf(t), logOf(t, ended(t), ended(t)))
	for _, e := range append(variants(t), addressed(t)...) {
		all = append(all, logOf(t, e))
	}
	one, err := proto.Marshal(ended(t))
	if err != nil {
		t.Fatal(err)
	}
	http, tcp := nested(one, 2, 1), nested([]byte{0x0a, 0}, 3, 1)
	filter := func(value []byte) []byte { // the metadata of ours with one field
		field := append(nested([]byte("key_id"), 1), nested(value, 2)...)
		return append(nested([]byte("envoy.filters.http.ext_authz"), 1), nested(field, 2, 1)...)
	}
	text, number, flag := nested([]byte("key_x"), 3), []byte{0x11, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{0x20, 1}
	backwards := append(nested(append(nested(text, 2), nested([]byte("key_id"), 1)...), 2, 1), nested([]byte("envoy.filters.http.ext_authz"), 1)...)
	join := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	client, pipe := nested([]byte("203.0.113.77"), 1, 2, 1, 2), nested([]byte("x"), 1, 2, 2, 1)
	return append(all,
		join(http, tcp), join(tcp, http), join(http, tcp, http, http), join(tcp, tcp), // the later kind replaces the other
		join(http, nested([]byte("other"), 1, 2)), // the name comes last
		// An entry with one of its parts twice: they merge, and the later of each value counts.
		nested(join(one, one), 2, 1),
		nested(join(one, nested([]byte{0x10, 9}, 1, 23)), 2, 1), nested(join(one, nested(nil, 1, 23)), 2, 1), nested(join(nested(nil, 1, 5), nested([]byte{0x88, 2, 0}, 1)), 2, 1),
		nested(join(one, nested(nested([]byte("key_x"), 3), 1, 17)), 2, 1),
		nested(join(one, nested(filter(text), 1, 17, 1)), 2, 1),
		nested(join(one, nested(backwards, 1, 17, 1)), 2, 1),
		nested(join(one, nested(filter(join(text, number)), 1, 17, 1)), 2, 1), nested(join(one, nested(filter(join(number, text)), 1, 17, 1)), 2, 1),
		nested(join(one, nested(filter(join(text, flag)), 1, 17, 1)), 2, 1), nested(join(one, nested(filter(join(text, nested(nil, 5))), 1, 17, 1)), 2, 1),
		nested(join(one, nested(join(filter(text), filter(flag)), 1, 17, 1)), 2, 1),                        // a name twice, a map twice in an entry
		nested([]byte{0x1a, 0}, 2, 1, 1, 17, 1, 2, 1, 2), nested([]byte{0x18, 1}, 2, 1, 1, 17, 1, 2, 1, 2), // a text as a number
		nested([]byte{0x5a, 1, 'x'}, 2, 1, 3), nested([]byte{0x62, 1, 'x'}, 2, 1, 3), nested([]byte{0x61, 1, 2, 3, 4, 5, 6, 7, 8}, 2, 1, 3), // numbers as other kinds
		nested([]byte("\xff"), 2, 1, 3, 5), nested([]byte("\xff"), 2, 1, 3, 9), nested([]byte("\xff"), 1, 2), nested([]byte("\xff"), 1, 1, 1), nested([]byte("\xff"), 3, 1, 1, 15),
		nested([]byte("\xff"), 2, 1, 1, 17, 1, 2, 1, 2, 3), nested([]byte{0x0a, 5}, 2), nested([]byte{0x0a, 5}, 1), []byte{0x12, 5}, []byte{0x0b, 0x0c}, []byte{0x0b}, []byte{0x00},
		// An address of one kind after another, which it replaces, and twice.
		nested(join(failed, client, pipe), 2, 1), nested(join(failed, pipe, client), 2, 1), nested(join(failed, client, pipe, nested(nil, 1, 2, 1)), 2, 1),
		nested(join(failed, client, nested([]byte("::1"), 1, 2, 1, 2)), 2, 1), nested(join(failed, client, nested(nil, 1, 2, 3)), 2, 1), nested(join(failed, nested([]byte("\xff"), 1, 2, 1, 2)), 2, 1),
		[]byte{0xfa, 0xff, 0xff, 0xff, 0x0f, 0}, []byte{0x08, 1}, []byte{0x10, 1}, []byte{0x18, 1})
}

// What is decoded by hand must be what the generated code decodes, for every sequence of
// bytes.
func FuzzDecodeLog(f *testing.F) {
	set := fuzzSet(f)
	for _, b := range logSeeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { compareLogDecoders(t, set, b) })
}

// Random bytes are seldom messages; these are, with fields repeated, out of order,
// of a wrong kind, and cut off.
func TestLogDecodersAgreeOnMessages(t *testing.T) {
	set := fuzzSet(t)
	for _, b := range recordedLogs(t) {
		compareLogDecoders(t, set, b)
	}
	entry := (&datav3.HTTPAccessLogEntry{}).ProtoReflect().Descriptor()
	root := (&accesslogv3.StreamAccessLogsMessage{}).ProtoReflect().Descriptor()
	rapid.Check(t, func(t *rapid.T) {
		b := drawMessage(t, root, 9)
		for range rapid.IntRange(0, 3).Draw(t, "entries") {
			b = append(b, nested(drawMessage(t, entry, 9), 2, 1)...)
		}
		if len(b) > 0 && rapid.IntRange(0, 9).Draw(t, "cut") == 0 {
			b = b[:rapid.IntRange(0, len(b)-1).Draw(t, "length")]
		}
		compareLogDecoders(t, set, b)
	})
}

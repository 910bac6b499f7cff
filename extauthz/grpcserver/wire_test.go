package grpcserver_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/grpcserver"
	"tollgate/policy"
	"tollgate/policy/policyfile"
)

// byGeneratedCode is what decoding has to find, said with the generated types.
func byGeneratedCode(b []byte, set *policy.Set) (*policy.Request, error) {
	req := &authv3.CheckRequest{}
	if err := proto.Unmarshal(b, req); err != nil {
		return nil, err
	}
	attributes := req.GetAttributes()
	named := func(key string) policy.Named {
		value, given := attributes.GetContextExtensions()[key]
		return policy.Named{Value: value, Given: given}
	}
	r := &policy.Request{API: named("api"), Route: named("route"), Environment: named("environment")}
	if set.WantsCertificate() {
		r.Certificate = attributes.GetSource().GetCertificate()
	}
	r.Peer, _ = netip.ParseAddr(attributes.GetSource().GetAddress().GetSocketAddress().GetAddress())
	http := attributes.GetRequest().GetHttp()
	r.HTTP = http != nil
	r.Method, r.Host, r.Target = http.GetMethod(), http.GetHost(), http.GetPath()
	keep := func(key, value string) {
		if name := strings.ToLower(key); set.HeaderName([]byte(name)) != "" {
			r.Headers = append(r.Headers, policy.Header{Name: name, Value: value})
		}
	}
	for name, value := range http.GetHeaders() {
		keep(name, value)
	}
	for _, h := range http.GetHeaderMap().GetHeaders() {
		value := h.GetValue()
		if raw := h.GetRawValue(); len(raw) > 0 {
			value = string(raw)
		}
		if h.GetKey() == ":path" {
			r.Target, r.TargetVerbatim = value, true
		}
		keep(h.GetKey(), value)
	}
	return r, nil
}

// sameRequest compares two requests; a map's headers have no order.
func sameRequest(a, b *policy.Request) bool {
	sorted := func(r *policy.Request) []policy.Header {
		return slices.SortedFunc(slices.Values(r.Headers), func(a, b policy.Header) int {
			return strings.Compare(a.Name+"\x00"+a.Value, b.Name+"\x00"+b.Value)
		})
	}
	x, y := *a, *b
	x.Headers, y.Headers = nil, nil
	return x.API == y.API && x.Route == y.Route && x.Environment == y.Environment && x.HTTP == y.HTTP && x.Method == y.Method &&
		x.Host == y.Host && x.Target == y.Target && x.TargetVerbatim == y.TargetVerbatim && x.Peer == y.Peer && x.Certificate == y.Certificate && slices.Equal(sorted(a), sorted(b))
}

func compareDecoders(t interface{ Fatalf(string, ...any) }, set *policy.Set, b []byte) {
	want, wantErr := byGeneratedCode(b, set)
	got, err := grpcserver.Decode(b, set)
	switch {
	case (err == nil) != (wantErr == nil):
		t.Fatalf("%x: error %v, the generated code says %v", b, err, wantErr)
	case err == nil && !sameRequest(got, want):
		t.Fatalf("%x:\n%+v\nthe generated code says\n%+v", b, got, want)
	}
}

// fuzzSet wants headers of every kind.
func fuzzSet(t testing.TB) *policy.Set {
	t.Helper()
	set, err := policyfile.Compile(extauthztest.SmallFile(append(extauthztest.SmallTokens("https://login.test", ", certificate_bound: true"),
		"credentials: [bearer, ", "client_address: {from: external-address}\ncredentials: [bearer, {header: k}, {header: x-api-key}, ")...))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// seeds are requests of every kind that Envoy sends, and what Envoy never sends.
func seeds() [][]byte {
	headers := map[string]string{"authorization": "Bearer a", "X-API-Key": "b", "x-api-key": "c", "x_consumer_id": "d", "cookie": "e", ":path": "/no"}
	whole := extauthztest.Get("/items/1?api_key=k", headers)
	whole.Attributes.Source.Certificate = "-----BEGIN%20CERTIFICATE-----"
	whole.Attributes.ContextExtensions = map[string]string{"api": "small", "route": "", "else": "x"}
	whole.Attributes.GetRequest().GetHttp().HeaderMap = &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
		{Key: ":path", RawValue: []byte("/a\xff")}, {Key: "k", Value: "v"}, {Key: "k", RawValue: []byte{0xfe}}, {Key: ":path", Value: "/b"},
	}}
	fields, err := structpb.NewStruct(map[string]any{"a": []any{1.5, true, nil, "x", map[string]any{"b": "c"}}})
	if err != nil {
		panic(err)
	}
	whole.Attributes.MetadataContext = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"f": fields}}
	pipe := extauthztest.Get("/", nil)
	pipe.Attributes.Source.Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/run/x"}}}
	var all [][]byte
	for _, req := range []*authv3.CheckRequest{{}, extauthztest.Get("/open", nil), whole, pipe} {
		b, err := proto.Marshal(req)
		if err != nil {
			panic(err)
		}
		all = append(all, b)
	}
	// Merged with themselves: the last of each scalar and key counts, lists grow.
	all = append(all, append(slices.Clone(all[2]), all[3]...), append(slices.Clone(all[3]), all[2]...))
	at := func(b []byte, path ...protowire.Number) []byte {
		for _, n := range slices.Backward(path) {
			b = protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), b)
		}
		return b
	}
	return append(all,
		at([]byte("POST"), 1, 4, 2, 2), at([]byte("\xff"), 1, 4, 2, 2), at([]byte("\xff"), 1, 2, 2), at(nil, 1, 4, 2), at([]byte("\xff"), 1, 11, 1, 1),
		at(nil, 1, 4, 2, 3), at([]byte{0x10, 1}, 1, 4, 2, 3), at([]byte{0x0a, 1, 'k', 0x0a, 1, 'z'}, 1, 4, 2, 3), // entries without key, with a number, with two keys
		append(at([]byte("192.0.2.7"), 1, 1, 1, 1, 2), at([]byte("/x"), 1, 1, 1, 2, 1)...), append(at([]byte("/x"), 1, 1, 1, 2, 1), at([]byte("192.0.2.7"), 1, 1, 1, 1, 2)...),
		[]byte{0x08, 1}, []byte{0x0b, 0x0c}, []byte{0x0b, 0x14}, []byte{0x0c}, []byte{0x0b}, []byte{0x00}, []byte{0x0a, 5}, []byte{0x8a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f},
		[]byte{0x8a, 0x00, 0x00}, []byte{0x0d, 1, 2, 3, 4}, []byte{0x09, 1, 2, 3}, []byte{0xfa, 0xff, 0xff, 0xff, 0x0f, 0})
}

// What is decoded by hand must be what the generated code decodes, for every
// sequence of bytes.
func FuzzDecode(f *testing.F) {
	set := fuzzSet(f)
	for _, b := range seeds() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { compareDecoders(t, set, b) })
}

// Random bytes are seldom messages; these are, with fields repeated, out of order,
// of a wrong kind, and cut off.
func TestDecodersAgreeOnMessages(t *testing.T) {
	set := fuzzSet(t)
	root := (&authv3.CheckRequest{}).ProtoReflect().Descriptor()
	rapid.Check(t, func(t *rapid.T) {
		b := drawMessage(t, root, 7)
		if len(b) > 0 && rapid.IntRange(0, 9).Draw(t, "cut") == 0 {
			b = b[:rapid.IntRange(0, len(b)-1).Draw(t, "length")]
		}
		compareDecoders(t, set, b)
	})
}

// drawMessage draws fields of a message in any order.
func drawMessage(t *rapid.T, m protoreflect.MessageDescriptor, depth int) (b []byte) {
	for range rapid.IntRange(0, 4).Draw(t, "fields") {
		f := m.Fields().Get(rapid.IntRange(0, m.Fields().Len()-1).Draw(t, "field"))
		number := f.Number()
		if rapid.IntRange(0, 19).Draw(t, "odd") == 0 {
			number = protowire.Number(rapid.IntRange(0, 300).Draw(t, "number"))
		}
		switch {
		case f.Message() != nil && depth > 0:
			b = protowire.AppendTag(b, max(number, 1), protowire.BytesType)
			b = protowire.AppendBytes(b, drawMessage(t, f.Message(), depth-1))
		case f.Kind() == protoreflect.StringKind || f.Kind() == protoreflect.BytesKind:
			text := rapid.SampledFrom([]string{"", "envoy.filters.http.ext_authz", "decision_id", "reason", "key_id", "api", "route", "environment", "authorization", "Authorization", "k", "K", "x_consumer_id", ":path", "192.0.2.1", "fe80::1%4", "GET", "/a", "\xff", "ü"}).Draw(t, "text")
			b = protowire.AppendTag(b, max(number, 1), protowire.BytesType)
			b = protowire.AppendString(b, text)
		default:
			wire := protowire.Type(rapid.IntRange(0, 7).Draw(t, "wire"))
			b = protowire.AppendVarint(b, protowire.EncodeTag(number, wire))
			b = append(b, rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "bytes")...)
		}
	}
	return b
}

// The decoders know neither lists of numbers nor groups: no message that can stand
// in a CheckRequest or an access log has one.
func TestKindsOfFields(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	var visit func(protoreflect.MessageDescriptor)
	visit = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		if m.ExtensionRanges().Len() > 0 || m.RequiredNumbers().Len() > 0 {
			t.Errorf("%s has extensions or required fields", m.FullName())
		}
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if f.Kind() == protoreflect.GroupKind || f.IsPacked() {
				t.Errorf("%s is a group or a list of numbers", f.FullName())
			}
			if f.Kind() == protoreflect.StringKind && m.ParentFile().Syntax() != protoreflect.Proto3 {
				t.Errorf("%s may be other than UTF-8", f.FullName())
			}
			if f.Message() != nil {
				visit(f.Message())
			}
		}
	}
	visit((&authv3.CheckRequest{}).ProtoReflect().Descriptor())
	visit((&accesslogv3.StreamAccessLogsMessage{}).ProtoReflect().Descriptor())
	if len(seen) < 35 {
		t.Errorf("only %d messages", len(seen))
	}
}

// viaGeneratedCode is what a reply has to be, said with the generated types.
func viaGeneratedCode(d *policy.Decision) *authv3.CheckResponse {
	options := func(headers []policy.Header) (out []*corev3.HeaderValueOption) {
		for _, h := range headers {
			out = append(out, &corev3.HeaderValueOption{
				Header: &corev3.HeaderValue{Key: h.Name, Value: extauthz.CleanValue(h.Value)},
				//lint:ignore SA1019 Envoy 1.36 to 1.40 decide by this field alone
				Append:       wrapperspb.Bool(false),
				AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
			})
		}
		return out
	}
	fields := map[string]*structpb.Value{}
	for _, f := range d.Metadata {
		fields[f.Name] = structpb.NewStringValue(strings.ToValidUTF8(f.Value, "?"))
	}
	resp := &authv3.CheckResponse{Status: &rpcstatus.Status{}, DynamicMetadata: &structpb.Struct{Fields: fields}}
	if !d.Allow {
		resp.Status.Code = 7
		resp.HttpResponse = &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode(d.Status)}, Headers: options(d.Response), Body: strings.ToValidUTF8(string(d.Body), "\uFFFD"),
		}}
		return resp
	}
	ok := &authv3.OkHttpResponse{Headers: options(d.Request), HeadersToRemove: d.Remove, ResponseHeadersToAdd: options(d.Response)}
	if d.Target != "" {
		ok.Headers = append(ok.Headers, options([]policy.Header{{Name: ":path", Value: d.Target}})...)
	}
	resp.HttpResponse = &authv3.CheckResponse_OkResponse{OkResponse: ok}
	return resp
}

func TestRepliesAreThoseOfTheGeneratedCode(t *testing.T) {
	text := rapid.OneOf(rapid.StringN(0, 20, -1), rapid.SampledFrom([]string{"", "\xff", "a\r\nb", strings.Repeat("x", 127), strings.Repeat("y", 128), strings.Repeat("z", 20_000)}))
	headers := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) policy.Header {
		return policy.Header{Name: rapid.StringMatching("[a-z-]{1,12}").Draw(t, "name"), Value: text.Draw(t, "value")}
	}), 0, 6, func(h policy.Header) string { return h.Name })
	rapid.Check(t, func(t *rapid.T) {
		d := &policy.Decision{
			Allow: rapid.Bool().Draw(t, "allow"), Status: rapid.SampledFrom([]int{0, 401, 403, 429, 503, 599}).Draw(t, "status"),
			Body: []byte(text.Draw(t, "body")), Response: headers.Draw(t, "response"), Request: headers.Draw(t, "request"),
			Remove: rapid.SliceOfN(rapid.StringMatching("[a-z_-]{0,9}"), 0, 4).Draw(t, "remove"), Metadata: headers.Draw(t, "metadata"),
		}
		if target := text.Draw(t, "target"); !strings.Contains(target, "\xff") {
			d.Target = target
		}
		extauthztest.CheckCanonical(t, grpcserver.Reply(d), viaGeneratedCode(d))
	})
}

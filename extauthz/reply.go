package extauthz

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"tollgate/policy"
)

// reply builds the CheckResponse of a decision, fresh for each. Its status code
// alone decides for Envoy, so it is OK only where the decision allows.
func reply(d *policy.Decision) *authv3.CheckResponse {
	response := &authv3.CheckResponse{
		Status:          &rpcstatus.Status{Code: int32(codes.PermissionDenied)},
		DynamicMetadata: metadata(d.Metadata),
	}
	if !d.Allow {
		response.HttpResponse = &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status:  &typev3.HttpStatus{Code: typev3.StatusCode(d.Status)},
			Headers: options(d.Response),
			Body:    strings.ToValidUTF8(string(d.Body), "\uFFFD"),
		}}
		return response
	}
	response.Status.Code = int32(codes.OK)
	ok := &authv3.OkHttpResponse{
		Headers:              options(d.Request),
		HeadersToRemove:      d.Remove,
		ResponseHeadersToAdd: options(d.Response),
	}
	if d.Target != "" {
		ok.Headers = append(ok.Headers, option(":path", d.Target))
	}
	response.HttpResponse = &authv3.CheckResponse_OkResponse{OkResponse: ok}
	return response
}

func options(headers []policy.Header) []*corev3.HeaderValueOption {
	out := make([]*corev3.HeaderValueOption, 0, len(headers))
	for _, h := range headers {
		out = append(out, option(h.Name, h.Value))
	}
	return out
}

// option overwrites a header. Both ways of saying so are set: the Envoys that
// know append_action and those that do not read different ones, and the default
// of one of them adds our value beside the client's forged copy.
func option(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header: &corev3.HeaderValue{Key: name, Value: clean(value)},
		//lint:ignore SA1019 Envoy 1.36 to 1.40 decide by this field alone
		Append:       wrapperspb.Bool(false),
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// clean makes any text safe as a header value: a CR or LF would split the
// response (RFC 9110 section 5.5), and invalid UTF-8 would fail the whole reply.
func clean(value string) string {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c >= 0x7f {
			return strings.Map(printable, strings.ToValidUTF8(value, "?"))
		}
	}
	return value
}

func printable(r rune) rune {
	if r < ' ' && r != '\t' || r == 0x7f {
		return ' '
	}
	return r
}

func metadata(fields []policy.Header) *structpb.Struct {
	s := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(fields))}
	for _, f := range fields {
		s.Fields[f.Name] = structpb.NewStringValue(strings.ToValidUTF8(f.Value, "?"))
	}
	return s
}

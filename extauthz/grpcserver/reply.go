package grpcserver

import (
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"tollgate/extauthz"
	"tollgate/policy"
)

// The field numbers of a CheckResponse and what is in it: those of
// envoy/service/auth/v3/external_auth.proto, envoy/config/core/v3/base.proto,
// envoy/type/v3/http_status.proto, google/rpc/status.proto and
// google/protobuf/struct.proto. All are below 16, so that a tag is one byte.
const (
	responseStatus   protowire.Number = 1
	responseDenied   protowire.Number = 2
	responseOK       protowire.Number = 3
	responseMetadata protowire.Number = 4

	statusCode protowire.Number = 1 // of a google.rpc.Status and of an HttpStatus

	deniedStatus  protowire.Number = 1
	deniedHeaders protowire.Number = 2
	deniedBody    protowire.Number = 3

	okHeaders         protowire.Number = 2
	okHeadersToRemove protowire.Number = 5
	okResponseHeaders protowire.Number = 6

	optionHeader       protowire.Number = 1
	optionAppend       protowire.Number = 2
	optionAppendAction protowire.Number = 3

	entryKey    protowire.Number = 1 // of a header and of a map's entry
	entryValue  protowire.Number = 2
	structField protowire.Number = 1
	valueString protowire.Number = 3
)

// overwriteIfExistsOrAdd is the HeaderAppendAction of that name.
const overwriteIfExistsOrAdd = 2

// encoder appends CheckResponses in their wire format. It is used by one goroutine
// at a time, and reuses its memory.
type encoder struct {
	part []byte // one part of a response, until its length is known
}

// reply appends the CheckResponse of a decision. Its status code alone decides for
// Envoy, so it is OK only where the decision allows.
func (e *encoder) reply(b []byte, d *policy.Decision) []byte {
	e.part = e.part[:0]
	if d.Allow {
		b = append(b, tag(responseStatus, protowire.BytesType), 0) // code OK is the zero value
		for _, h := range d.Request {
			e.option(okHeaders, h.Name, h.Value)
		}
		if d.Target != "" {
			e.option(okHeaders, ":path", d.Target)
		}
		for _, name := range d.Remove {
			e.part = append(e.part, tag(okHeadersToRemove, protowire.BytesType))
			e.part = protowire.AppendString(e.part, name)
		}
		for _, h := range d.Response {
			e.option(okResponseHeaders, h.Name, h.Value)
		}
		b = appendPart(b, responseOK, e.part)
	} else {
		b = appendCode(b, responseStatus, uint64(codes.PermissionDenied))
		e.part = appendCode(e.part, deniedStatus, uint64(d.Status))
		for _, h := range d.Response {
			e.option(deniedHeaders, h.Name, h.Value)
		}
		if body := d.Body; len(body) > 0 {
			if !utf8.Valid(body) {
				body = []byte(strings.ToValidUTF8(string(body), "\uFFFD"))
			}
			e.part = appendPart(e.part, deniedBody, body)
		}
		b = appendPart(b, responseDenied, e.part)
	}
	return e.metadata(b, d.Metadata)
}

// option appends a HeaderValueOption that overwrites a header. Both ways of saying
// so are set: the Envoys that know append_action and those that do not read
// different ones (1.36 to 1.40 decide by append alone), and the default of one of
// them adds our value beside the client's forged copy.
func (e *encoder) option(number protowire.Number, name, value string) {
	value = extauthz.CleanValue(value)
	header := sizeText(name) + sizeText(value)
	b := e.part
	b = append(b, tag(number, protowire.BytesType))
	b = protowire.AppendVarint(b, uint64(1+protowire.SizeBytes(header)+4))
	b = append(b, tag(optionHeader, protowire.BytesType))
	b = protowire.AppendVarint(b, uint64(header))
	b = appendText(b, entryKey, name)
	b = appendText(b, entryValue, value)
	b = append(b, tag(optionAppend, protowire.BytesType), 0) // a BoolValue that is false
	e.part = append(b, tag(optionAppendAction, protowire.VarintType), overwriteIfExistsOrAdd)
}

// metadata appends the fields as a Struct of texts.
func (e *encoder) metadata(b []byte, fields []policy.Header) []byte {
	p := e.part[:0]
	for _, f := range fields {
		value := f.Value
		if !utf8.ValidString(value) {
			value = strings.ToValidUTF8(value, "?")
		}
		inner := 1 + protowire.SizeBytes(len(value)) // an empty text is there too: it is one of several kinds
		p = append(p, tag(structField, protowire.BytesType))
		p = protowire.AppendVarint(p, uint64(sizeText(f.Name)+1+protowire.SizeBytes(inner)))
		p = appendText(p, entryKey, f.Name)
		p = append(p, tag(entryValue, protowire.BytesType))
		p = protowire.AppendVarint(p, uint64(inner))
		p = append(p, tag(valueString, protowire.BytesType))
		p = protowire.AppendString(p, value)
	}
	e.part = p
	return appendPart(b, responseMetadata, p)
}

func tag(number protowire.Number, t protowire.Type) byte { return byte(number)<<3 | byte(t) }

// appendCode appends a message whose field 1 is a number other than 0.
func appendCode(b []byte, number protowire.Number, code uint64) []byte {
	if code == 0 {
		return append(b, tag(number, protowire.BytesType), 0)
	}
	b = append(b, tag(number, protowire.BytesType), byte(1+protowire.SizeVarint(code)), tag(statusCode, protowire.VarintType))
	return protowire.AppendVarint(b, code)
}

func appendPart(b []byte, number protowire.Number, part []byte) []byte {
	b = append(b, tag(number, protowire.BytesType))
	return protowire.AppendBytes(b, part)
}

// appendText appends a text, which in proto3 is left out where it is empty.
func appendText(b []byte, number protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	b = append(b, tag(number, protowire.BytesType))
	return protowire.AppendString(b, s)
}

func sizeText(s string) int {
	if s == "" {
		return 0
	}
	return 1 + protowire.SizeBytes(len(s))
}

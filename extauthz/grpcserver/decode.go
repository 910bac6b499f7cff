package grpcserver

import (
	"bytes"
	"net/netip"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protowire"

	"tollgate/extauthz"
	"tollgate/policy"
)

// What a part of a CheckRequest is to a decision.
const (
	takeHTTP take = iota + 1
	takeMethod
	takeHost
	takePath
	takePeer
	takeCertificate
	// takeNoPeer is another kind of address than an IP one, which replaces it.
	takeNoPeer
	// The parts of a header or of a context extension, and their ends.
	takePair
	takeKey
	takeValue
	takeRawValue
	takeMapHeader
	takeListHeader
	takeExtension
)

// checkRequest returns the shape of a CheckRequest, with what decisions need of it.
// The numbers are those of envoy/service/auth/v3/external_auth.proto,
// attribute_context.proto and envoy/config/core/v3/address.proto and base.proto.
func checkRequest() *shape {
	root := shapes{}.of((&authv3.CheckRequest{}).ProtoReflect().Descriptor())
	attributes := root.own(1)

	source := attributes.own(1)
	source.fields[5].take = takeCertificate
	address := source.own(1)
	socket := address.own(1)
	address.fields[1].take = takePair
	socket.fields[2].take = takePeer
	address.fields[2].take, address.fields[3].take = takeNoPeer, takeNoPeer

	request := attributes.own(4)
	http := request.own(2)
	request.fields[2].take = takeHTTP
	http.fields[2].take, http.fields[4].take, http.fields[5].take = takeMethod, takePath, takeHost
	http.pair(3, takeMapHeader)
	http.own(13).pair(1, takeListHeader).fields[3].take = takeRawValue

	attributes.pair(10, takeExtension)
	return root
}

// pair takes the messages in a field as pairs of a key and a value.
func (s *shape) pair(number protowire.Number, end take) *shape {
	p := s.own(number)
	s.fields[number].take = takePair
	p.fields[1].take, p.fields[2].take, p.end = takeKey, takeValue, end
	return p
}

// decoder turns the bytes of CheckRequests into policy.Requests. It is used by one
// goroutine at a time. Between two requests it holds nothing but the memory of its
// list.
type decoder struct {
	set *policy.Set

	http                     bool
	method, host, path, peer []byte
	certificate              []byte // of the client, if a policy asks for it
	key, value, rawValue     []byte
	api, route, environment  extension
	headers                  []rawHeader
	text                     strings.Builder
}

type extension struct {
	value []byte
	given bool
}

// rawHeader is a header that a policy wants. One of the map replaces an earlier one
// with the same key; those of the list all count.
type rawHeader struct {
	name       string // lower case
	key, value []byte
	list       bool
}

// decode reads a CheckRequest into r, whose header list it reuses, as far as the
// policies look at it. Every part of the message may be absent: a network filter
// sends no HTTP attributes at all. r holds no part of b.
func (d *decoder) decode(s *shape, b []byte, set *policy.Set, r *policy.Request) error {
	d.set = set
	err := s.walk(b, protowire.DefaultRecursionLimit, d)
	if err == nil {
		d.fill(r)
	}
	// gRPC uses b again; and a decoder that waits must not keep a secret alive.
	clear(d.headers)
	*d = decoder{headers: d.headers[:0]}
	return err
}

// take receives the content of a field; for a message before it is read.
func (d *decoder) take(t take, b []byte) {
	switch t {
	case takeHTTP:
		d.http = true
	case takeMethod:
		d.method = b
	case takeHost:
		d.host = b
	case takePath:
		d.path = b
	case takePeer:
		d.peer = b
	case takeNoPeer:
		d.peer = nil
	case takeCertificate:
		if d.set.WantsCertificate() {
			d.certificate = b
		}
	case takePair:
		d.key, d.value, d.rawValue = nil, nil, nil
	case takeKey:
		d.key = b
	case takeValue:
		d.value = b
	case takeRawValue:
		d.rawValue = b
	}
}

// number receives nothing: no decision needs one.
func (d *decoder) number(take, uint64) {}

// end is called when a pair is complete.
func (d *decoder) end(t take) {
	switch t {
	case takeExtension:
		switch string(d.key) {
		case extauthz.ContextAPI:
			d.api = extension{d.value, true}
		case extauthz.ContextRoute:
			d.route = extension{d.value, true}
		case extauthz.ContextEnvironment:
			d.environment = extension{d.value, true}
		}
	case takeMapHeader:
		d.header(rawHeader{key: d.key, value: d.value})
	case takeListHeader:
		value := d.value
		if len(d.rawValue) > 0 {
			value = d.rawValue
		}
		d.header(rawHeader{key: d.key, value: value, list: true})
	}
}

// pathHeader is the one pseudo-header that is looked at: only the list has the bytes
// that are not UTF-8 as the client sent them.
const pathHeader = ":path"

func (d *decoder) header(h rawHeader) {
	if h.list && string(h.key) == pathHeader {
		h.name = pathHeader
	} else if h.name = d.set.HeaderName(h.key); h.name == "" {
		return // no policy looks at it
	}
	for i := range d.headers {
		if !h.list && !d.headers[i].list && bytes.Equal(d.headers[i].key, h.key) {
			d.headers[i] = h
			return
		}
	}
	d.headers = append(d.headers, h)
}

// fill copies what was found into one piece of memory, which the texts of r share.
func (d *decoder) fill(r *policy.Request) {
	size := len(d.certificate) + len(d.peer) + len(d.method) + len(d.host) + len(d.path) + len(d.api.value) + len(d.route.value) + len(d.environment.value)
	for _, h := range d.headers {
		size += len(h.value)
	}
	d.text.Grow(size)
	*r = policy.Request{
		HTTP: d.http, Headers: r.Headers[:0],
		API: d.named(d.api), Route: d.named(d.route), Environment: d.named(d.environment),
		Method: d.string(d.method), Host: d.string(d.host), Target: d.string(d.path),
		Certificate: d.string(d.certificate),
	}
	if len(d.peer) > 0 {
		// It is the invalid address for what is none, such as a unix socket's name.
		r.Peer, _ = netip.ParseAddr(d.string(d.peer))
	}
	for _, h := range d.headers {
		value := d.string(h.value)
		if h.name == pathHeader {
			r.Target, r.TargetVerbatim = value, true
			continue
		}
		r.Headers = append(r.Headers, policy.Header{Name: h.name, Value: value})
	}
}

func (d *decoder) named(e extension) policy.Named {
	return policy.Named{Value: d.string(e.value), Given: e.given}
}

func (d *decoder) string(b []byte) string {
	start := d.text.Len()
	d.text.Write(b)
	return d.text.String()[start:]
}

package grpcserver

import (
	"errors"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// errWire says that bytes are not the message that they should be.
var errWire = errors.New("extauthz: not the message that it should be")

// take says what a part of a message is to whoever reads it. Each reader has names of its
// own for them.
type take uint8

// sink receives what a walk meets of a message that has a take, in the order of the bytes.
type sink interface {
	// take receives the content of a field; for a message before it is read.
	take(t take, b []byte)
	// number receives that of a field that is a number.
	number(t take, n uint64)
	// end is called when a message has been read.
	end(t take)
}

// shape is a message type as its wire format is read: every field is checked as
// the generated decoder checks it, and those that somebody needs are handed to
// the sink. It is made once from the message's descriptor and never changes.
type shape struct {
	fields []field // by field number
	end    take    // what is done once such a message was read; 0 for nothing
}

type field struct {
	kind fieldKind
	sub  *shape // of a message or of a map's entry
	take take   // 0 for what nobody needs
}

type fieldKind uint8

const (
	// skippedField is unknown, or a number that nobody needs: its wire type says how long
	// it is.
	skippedField fieldKind = iota
	bytesField
	textField
	messageField
	// The kinds of number that somebody needs.
	varintField
	fixed64Field
)

// shapes makes each shape once, so that a message may contain itself.
type shapes map[protoreflect.FullName]*shape

func (all shapes) of(d protoreflect.MessageDescriptor) *shape {
	if s := all[d.FullName()]; s != nil {
		return s
	}
	s := &shape{}
	all[d.FullName()] = s
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		for len(s.fields) <= int(f.Number()) {
			s.fields = append(s.fields, field{})
		}
		at := &s.fields[f.Number()]
		switch f.Kind() {
		case protoreflect.StringKind:
			at.kind = textField
		case protoreflect.BytesKind:
			at.kind = bytesField
		case protoreflect.MessageKind:
			at.kind, at.sub = messageField, all.of(f.Message())
		}
	}
	return s
}

// own gives the message in a field a shape of its own, so that what is taken from
// it is not taken from every message of its type.
func (s *shape) own(number protowire.Number) *shape {
	f := &s.fields[number]
	f.sub = &shape{fields: append([]field(nil), f.sub.fields...), end: f.sub.end}
	return f.sub
}

// takeNumber takes a field that is an integer, a bool or an enum, or with fixed64Field a double.
func (s *shape) takeNumber(number protowire.Number, kind fieldKind, t take) {
	s.fields[number].kind, s.fields[number].take = kind, t
}

// walk reads one message. It accepts exactly what the generated decoder accepts
// (google.golang.org/protobuf/internal/impl): a field with another wire type than
// its own counts as unknown, text must be UTF-8, and of a field that is repeated and
// no list the last one counts. depth is how many messages may be inside each other.
func (s *shape) walk(b []byte, depth int, to sink) error {
	if depth--; depth < 0 {
		return errWire
	}
	for len(b) > 0 {
		tag, n := uint64(b[0]), 1
		if tag >= 0x80 {
			if tag, n = protowire.ConsumeVarint(b); n < 0 {
				return errWire
			}
		}
		b = b[n:]
		if tag>>3 < uint64(protowire.MinValidNumber) || tag>>3 > uint64(protowire.MaxValidNumber) {
			return errWire
		}
		number, wire := protowire.Number(tag>>3), protowire.Type(tag&7)
		if int(number) >= len(s.fields) || s.fields[number].kind == skippedField || wire != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, wire, b); n < 0 {
				return errWire
			}
			if int(number) < len(s.fields) {
				s.fields[number].readNumber(wire, b, to)
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return errWire
		}
		if err := s.fields[number].read(value, depth, to); err != nil {
			return err
		}
		b = b[n:]
	}
	if s.end != 0 {
		to.end(s.end)
	}
	return nil
}

func (f *field) read(value []byte, depth int, to sink) error {
	switch f.kind {
	case varintField, fixed64Field:
		return nil // of another wire type than its own
	case textField:
		if !utf8.Valid(value) {
			return errWire
		}
	}
	if f.take != 0 {
		to.take(f.take, value)
	}
	if f.kind == messageField {
		return f.sub.walk(value, depth, to)
	}
	return nil
}

// readNumber hands on a number that is known to be there.
func (f *field) readNumber(wire protowire.Type, b []byte, to sink) {
	switch {
	case f.kind == varintField && wire == protowire.VarintType:
		n, _ := protowire.ConsumeVarint(b)
		to.number(f.take, n)
	case f.kind == fixed64Field && wire == protowire.Fixed64Type:
		n, _ := protowire.ConsumeFixed64(b)
		to.number(f.take, n)
	}
}

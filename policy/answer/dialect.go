package answer

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Text is what an answer says, before it has the form of a dialect. Which fields a dialect uses is
// up to its function.
type Text struct {
	Status              int
	Code, Type, Title   string
	Message             Template
	Details, Extensions map[string]Template
	RequestID           string // name of the field that carries it
	Instance            bool
}

// Parse splits a text such as "retry after {retry_after} s" at its placeholders.
func Parse(s string) (Template, error) {
	var t Template
	for {
		before, after, found := strings.Cut(s, "{")
		if before != "" {
			t = append(t, segment{text: before})
		}
		if !found {
			return t, nil
		}
		name, rest, closed := strings.Cut(after, "}")
		slot, known := placeholders()[name]
		if !closed || !known {
			return nil, fmt.Errorf("unknown placeholder %q", "{"+name+"}")
		}
		t = append(t, segment{slot: slot})
		s = rest
	}
}

// WithoutRetry leaves out the members that say when to retry. Sentences stay as the API documents
// them.
func (t Text) WithoutRetry() Text {
	keeps := func(all map[string]Template) map[string]Template {
		kept := maps.Clone(all)
		maps.DeleteFunc(kept, func(_ string, t Template) bool { return t.isRetry() })
		return kept
	}
	t.Details, t.Extensions = keeps(t.Details), keeps(t.Extensions)
	return t
}

// isRetry reports whether the text is the seconds to wait and nothing else.
func (t Template) isRetry() bool { return len(t) == 1 && t[0].slot == RetryAfter }

// Envelope is the body {"success":false,"error":{"code","message","details"},"requestId"}.
func (t Text) Envelope() Template {
	var b jsonBuilder
	b.raw(`{"success":false,"error":{"code":`)
	b.literal(t.Code)
	b.raw(`,"message":`)
	b.text(t.Message)
	if len(t.Details) > 0 {
		b.raw(`,"details":{`)
		b.members(t.Details, "")
		b.raw(`}`)
	}
	b.raw(`}`)
	if t.RequestID != "" {
		b.raw(`,`)
		b.literal(t.RequestID)
		b.raw(`:`)
		b.text(Template{{slot: RequestID}})
	}
	b.raw(`}`)
	return slices.Clip(b.t)
}

// Nested is the body {"error":{"code","message","retry_after"}}, the last of them if retry says so.
func (t Text) Nested(retry bool) Template {
	var b jsonBuilder
	b.raw(`{"error":{"code":`)
	b.literal(t.Code)
	b.raw(`,"message":`)
	b.text(t.Message)
	if retry {
		b.raw(`,"retry_after":`)
		b.slot(RetryAfter)
	}
	b.raw(`}}`)
	return slices.Clip(b.t)
}

// Problem is an RFC 9457 problem.
func (t Text) Problem() Template {
	var b jsonBuilder
	b.raw(`{"type":`)
	b.literal(t.Type)
	b.raw(`,"title":`)
	b.literal(t.Title)
	b.raw(`,"status":` + strconv.Itoa(t.Status) + `,"detail":`)
	b.text(t.Message)
	if t.Instance {
		b.raw(`,"instance":`)
		b.text(Template{{slot: Instance}})
	}
	b.members(t.Extensions, ",")
	b.raw(`}`)
	return slices.Clip(b.t)
}

// jsonBuilder writes the template of a JSON body.
type jsonBuilder struct{ t Template }

func (b *jsonBuilder) raw(s string) { b.t = append(b.t, segment{text: s}) }

// text writes a JSON string whose placeholders are filled in later.
func (b *jsonBuilder) text(t Template) {
	b.raw(`"`)
	for _, p := range t {
		if p.slot == noSlot {
			p.text = string(appendJSON(nil, p.text))
		}
		p.quoted = p.slot != noSlot
		b.t = append(b.t, p)
	}
	b.raw(`"`)
}

func (b *jsonBuilder) literal(s string) { b.text(Template{{text: s}}) }

func (b *jsonBuilder) slot(s Slot) { b.t = append(b.t, segment{slot: s}) }

// members writes named texts in the order of their names, each after the first, or after what
// stands before it, behind a comma.
func (b *jsonBuilder) members(texts map[string]Template, comma string) {
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		b.raw(comma)
		b.literal(name)
		b.raw(`:`)
		b.detail(texts[name])
		comma = ","
	}
}

// detail writes a value of details; the seconds to wait are a number.
func (b *jsonBuilder) detail(t Template) {
	if t.isRetry() {
		b.slot(RetryAfter)
		return
	}
	b.text(t)
}

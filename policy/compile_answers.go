package policy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// answers compiles the errors section: every reason has exactly one answer.
func (c *compiler) answers() {
	in := c.doc.Errors
	if in.Dialect == "" {
		c.fault("errors.dialect", "no dialect, want envelope, nested or problem")
		return
	}
	before := len(c.src.faults)
	c.choice("errors.dialect", in.Dialect, "envelope", "nested", "problem")
	if in.RequestID == "success" || in.RequestID == "error" {
		c.fault("errors.request_id", "request_id %q is a field of the body already", in.RequestID)
	}
	if in.RequestID != "" && (in.Dialect != "envelope" || !nameRule().MatchString(strings.ToLower(strings.ReplaceAll(in.RequestID, "_", "-")))) {
		c.fault("errors.request_id", "request_id %q: want a field name, and only with dialect envelope", in.RequestID)
	}
	c.api.requestID = in.RequestID != ""
	for i := range in.Answers {
		c.answersOf(i, &in.Answers[i])
	}
	if len(c.src.faults) > before {
		return
	}
	for _, r := range Reasons() {
		if r.answered() && c.api.answers[r] == nil {
			c.fault("errors.answers", "no answer for reason %q", r.String())
		}
	}
	c.api.answers[CorruptKey] = c.api.answers[Undecided]
	c.api.answers[LookupRefused] = c.api.answers[Undecided]
}

func (c *compiler) answersOf(i int, in *answerIn) {
	place := at("errors.answers", i, "")
	if len(in.On) == 0 {
		c.fault(place, "answer without a reason: want on: [REASON]")
	}
	c.answerFields(place, in)
	t, ok := c.texts(place, in)
	for j, name := range in.On {
		on := at(place+".on", j, "")
		r, known := parseReason(name)
		switch {
		case !known || !r.answered():
			c.fault(on, "unknown reason %q", name)
			continue
		case c.api.answers[r] != nil:
			c.fault(on, "duplicate answer for reason %q", name)
			continue
		}
		if ok {
			c.fits(place, r, t)
		}
		c.api.answers[r] = c.answer(in, r, t)
	}
}

// answerFields holds each field to its dialect.
func (c *compiler) answerFields(place string, in *answerIn) {
	if in.Status < 400 || in.Status > 599 {
		c.fault(place+".status", "status %d is not a denial, want 400 to 599", in.Status)
	}
	dialect := c.doc.Errors.Dialect
	isProblem := dialect == "problem"
	for _, f := range []struct {
		name, value string
		wanted      bool
	}{
		{"code", in.Code, !isProblem},
		{"type", in.Type, isProblem},
		{"title", in.Title, isProblem},
	} {
		switch {
		case f.wanted && f.value == "":
			c.fault(place, "answer without %s, which dialect %q needs", f.name, dialect)
		case !f.wanted && f.value != "":
			c.fault(place+"."+f.name, "dialect %q has no %s, got %q", dialect, f.name, f.value)
		}
	}
	if len(in.Details) > 0 && dialect != "envelope" {
		c.fault(place+".details", "dialect %q has no details", dialect)
	}
	if len(in.Extensions) > 0 && !isProblem {
		c.fault(place+".extensions", "dialect %q has no extensions", dialect)
	}
	if in.Instance && !isProblem {
		c.fault(place+".instance", "dialect %q has no instance", dialect)
	}
}

func memberRule() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,62}$`) }

func (c *compiler) texts(place string, in *answerIn) (texts, bool) {
	if in.Message == "" {
		c.fault(place, "answer without a message")
	}
	before := len(c.src.faults)
	// The message goes into grpc-message and log lines as it is.
	if strings.ContainsFunc(in.Message, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		c.fault(place+".message", "message %q is not one line", in.Message)
	}
	var t texts
	var err error
	if t.message, err = parseText(in.Message); err != nil {
		c.fault(place+".message", "%v", err)
	}
	t.details = c.members(place+".details", in.Details, "details", nil)
	t.extensions = c.members(place+".extensions", in.Extensions, "extensions", problemMembers())
	return t, len(c.src.faults) == before
}

// problemMembers are those that RFC 9457 section 3.1 defines.
func problemMembers() []string { return []string{"type", "title", "status", "detail", "instance"} }

// members reads the texts of an object's members, whose names must not be taken.
func (c *compiler) members(place string, in map[string]string, kind string, taken []string) map[string]template {
	out := make(map[string]template, len(in))
	for _, name := range slices.Sorted(maps.Keys(in)) {
		switch {
		case !memberRule().MatchString(name):
			c.fault(place, "bad %s name %q, want a letter, then letters, digits, _ and -", kind, name)
		case slices.Contains(taken, name):
			c.fault(place+"."+name, "%s name %q is a member of the body already", kind, name)
		default:
			text, err := parseText(in[name])
			if err != nil {
				c.fault(place+"."+name, "%v", err)
			}
			out[name] = text
		}
	}
	return out
}

// fits refuses a placeholder that would stay empty for a reason.
func (c *compiler) fits(place string, r Reason, t texts) {
	check := func(field string, text template) {
		for _, p := range text {
			if p.slot != noSlot && !p.slot.fits(r) {
				c.fault(place+"."+field, "placeholder %q has no value for reason %q", slotName(p.slot), r.String())
			}
		}
	}
	check("message", t.message)
	for _, name := range slices.Sorted(maps.Keys(t.details)) {
		check("details."+name, t.details[name])
	}
	for _, name := range slices.Sorted(maps.Keys(t.extensions)) {
		check("extensions."+name, t.extensions[name])
	}
}

func slotName(s slot) string {
	for name, known := range slotNames() {
		if known == s {
			return "{" + name + "}"
		}
	}
	return fmt.Sprint(uint8(s))
}

func (c *compiler) answer(in *answerIn, r Reason, t texts) *answer {
	a := &answer{status: in.Status, contentType: "application/json", message: t.message}
	if c.doc.Errors.Dialect == "problem" {
		a.contentType = "application/problem+json"
	}
	a.body = c.body(in, t, r.limited())
	if r.limited() {
		a.hopeless = c.body(in, t.withoutRetry(), false)
	}
	if in.Status == 401 {
		a.challenge = c.challenge(r)
	}
	return a
}

// body is an answer's body in the dialect of the API. retry says whether the client
// is told when to come again.
func (c *compiler) body(in *answerIn, t texts, retry bool) template {
	var body template
	switch c.doc.Errors.Dialect {
	case "envelope":
		body = envelope(in, t, c.doc.Errors.RequestID)
	case "nested":
		body = nested(in, t, retry)
	case "problem":
		body = problem(in, t)
	}
	return slices.Clip(body)
}

// challenge is the WWW-Authenticate that RFC 9110 section 15.5.2 asks of a 401,
// in the form of RFC 6750 section 3 where the key is a bearer token.
func (c *compiler) challenge(r Reason) string {
	schemes := c.api.places.schemes
	switch {
	case len(schemes) == 0:
		return fmt.Sprintf("ApiKey realm=%q", c.api.realm)
	case !c.api.places.scheme("Bearer"):
		return fmt.Sprintf("%s realm=%q", schemes[0], c.api.realm)
	}
	if !r.presented() {
		return fmt.Sprintf("Bearer realm=%q", c.api.realm)
	}
	return fmt.Sprintf("Bearer realm=%q, error=%q", c.api.realm, "invalid_token")
}

package policyfile

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"tollgate/policy"
	"tollgate/policy/answer"
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
	c.spec.RequestID = in.RequestID != ""
	c.spec.DecisionHeader = c.choice("errors.decision_id", in.DecisionID, "none", "header") == "header"
	for i := range in.Answers {
		c.answersOf(i, &in.Answers[i])
	}
	if len(c.src.faults) > before {
		return
	}
	for _, r := range policy.Reasons() {
		if r.Answered() && c.spec.Answers[r] == nil && c.canHappen(r) {
			c.fault("errors.answers", "no answer for reason %q", r.String())
		}
	}
	c.spec.Answers[policy.CorruptKey] = c.spec.Answers[policy.Undecided]
	c.spec.Answers[policy.LookupRefused] = c.spec.Answers[policy.Undecided]
}

// canHappen is about the reasons that only some policies can refuse a request for.
func (c *compiler) canHappen(r policy.Reason) bool {
	switch {
	case r == policy.ConcurrencyExceeded:
		return c.limitsConcurrency()
	case r.OfToken():
		return len(c.spec.Issuers) > 0
	}
	return true
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
		r, known := policy.ParseReason(name)
		switch {
		case !known || !r.Answered():
			c.fault(on, "unknown reason %q", name)
			continue
		case c.spec.Answers[r] != nil:
			c.fault(on, "duplicate answer for reason %q", name)
			continue
		}
		if ok {
			c.fits(place, r, t)
		}
		c.spec.Answers[r] = c.answer(r, t)
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

func (c *compiler) texts(place string, in *answerIn) (answer.Text, bool) {
	if in.Message == "" {
		c.fault(place, "answer without a message")
	}
	before := len(c.src.faults)
	// The message goes into grpc-message and log lines as it is.
	if strings.ContainsFunc(in.Message, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		c.fault(place+".message", "message %q is not one line", in.Message)
	}
	t := answer.Text{Status: in.Status, Code: in.Code, Type: in.Type, Title: in.Title, RequestID: c.doc.Errors.RequestID, Instance: in.Instance}
	var err error
	if t.Message, err = answer.Parse(in.Message); err != nil {
		c.fault(place+".message", "%v", err)
	}
	t.Details = c.members(place+".details", in.Details, "details", nil)
	t.Extensions = c.members(place+".extensions", in.Extensions, "extensions", problemMembers())
	return t, len(c.src.faults) == before
}

// problemMembers are those that RFC 9457 section 3.1 defines.
func problemMembers() []string { return []string{"type", "title", "status", "detail", "instance"} }

// members reads the texts of an object's members, whose names must not be taken.
func (c *compiler) members(place string, in map[string]string, kind string, taken []string) map[string]answer.Template {
	out := make(map[string]answer.Template, len(in))
	for _, name := range slices.Sorted(maps.Keys(in)) {
		switch {
		case !memberRule().MatchString(name):
			c.fault(place, "bad %s name %q, want a letter, then letters, digits, _ and -", kind, name)
		case slices.Contains(taken, name):
			c.fault(place+"."+name, "%s name %q is a member of the body already", kind, name)
		default:
			text, err := answer.Parse(in[name])
			if err != nil {
				c.fault(place+"."+name, "%v", err)
			}
			out[name] = text
		}
	}
	return out
}

// fits refuses a placeholder that would stay empty for a reason.
func (c *compiler) fits(place string, r policy.Reason, t answer.Text) {
	check := func(field string, text answer.Template) {
		for _, slot := range text.Slots() {
			if !fits(slot, r) {
				c.fault(place+"."+field, "placeholder %q has no value for reason %q", slot.String(), r.String())
			}
		}
	}
	check("message", t.Message)
	for _, name := range slices.Sorted(maps.Keys(t.Details)) {
		check("details."+name, t.Details[name])
	}
	for _, name := range slices.Sorted(maps.Keys(t.Extensions)) {
		check("extensions."+name, t.Extensions[name])
	}
}

// fits reports whether a slot can have a value in an answer to r.
func fits(slot answer.Slot, r policy.Reason) bool {
	switch slot {
	case answer.RetryAfter, answer.Limit:
		return r.Limited()
	case answer.ExpiredAt:
		return r == policy.ExpiredKey || r == policy.ExpiredToken
	case answer.Scope:
		return r == policy.ScopeDenied || r == policy.InsufficientScope
	case answer.Route:
		return r != policy.RouteDenied
	case answer.KeyID:
		return r != policy.MissingCredential
	default:
		return true
	}
}

func (c *compiler) answer(r policy.Reason, t answer.Text) *answer.Answer {
	a := &answer.Answer{Status: t.Status, ContentType: "application/json", Message: t.Message}
	if c.doc.Errors.Dialect == "problem" {
		a.ContentType = "application/problem+json"
	}
	a.Body = c.body(t, r.Limited())
	if r.Limited() {
		a.NoRetry = c.body(t.WithoutRetry(), false)
	}
	if t.Status == 401 {
		a.Challenge = c.challenge(r)
	}
	return a
}

// body is an answer's body in the dialect of the API. retry says whether the client is told when to
// come again.
func (c *compiler) body(t answer.Text, retry bool) answer.Template {
	switch c.doc.Errors.Dialect {
	case "envelope":
		return t.Envelope()
	case "nested":
		return t.Nested(retry)
	case "problem":
		return t.Problem()
	}
	return nil
}

// challenge is the WWW-Authenticate that RFC 9110 section 15.5.2 asks of a 401, in the form of RFC
// 6750 section 3 where the key is a bearer token.
func (c *compiler) challenge(r policy.Reason) string {
	schemes := c.spec.Credentials.Schemes
	switch {
	case c.spec.Credentials.Tokens:
		return c.tokenChallenge(r)
	case len(schemes) == 0:
		return fmt.Sprintf("ApiKey realm=%q", c.realm)
	case !c.spec.Credentials.HasScheme("Bearer"):
		return fmt.Sprintf("%s realm=%q", schemes[0], c.realm)
	}
	if !r.Presented() {
		return fmt.Sprintf("Bearer realm=%q", c.realm)
	}
	return fmt.Sprintf("Bearer realm=%q, error=%q", c.realm, "invalid_token")
}

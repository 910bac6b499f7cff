package testdata

import (
	"fmt"
	"strings"
)

// requestID is the one reference that only the answer can resolve.
const requestID = "request_id"

// Expand puts the secrets into the block: ${KEY_ID} becomes the secret of that
// key in the target, the headers, the body and the expectations;
// ${handle:KEY_ID} or ${handle:SECRET} becomes handle(secret), the id under
// which an unknown key is reported. ${request_id} stays, in expectations only.
// Any other name is an error. Copies of the block share nothing that it writes.
func (b *Block) Expand(secrets map[string]string, handle func(secret string) string) error {
	e := expander{secrets: secrets, handle: handle}
	b.Target = e.expand(b.Target, false)
	headers := make([][2]string, len(b.Headers))
	for i, h := range b.Headers {
		headers[i] = [2]string{h[0], e.expand(h[1], false)}
	}
	b.Headers = headers
	b.WantHeaders = e.expandWants(b.WantHeaders)
	b.WantUpstream = e.expandWants(b.WantUpstream)
	b.WantMeta = e.expandWants(b.WantMeta)
	if b.WantBody != nil {
		body := e.expand(*b.WantBody, true)
		b.WantBody = &body
	}
	if e.err != nil {
		return fmt.Errorf("script.txt:%d: block %q: %w", b.Line, b.Name, e.err)
	}
	return nil
}

// Tokens are the names of the access tokens that scripts can refer to, as ${NAME}. They are made
// when a script is run, of the issuer that the API's policy names.
func Tokens() []string {
	return []string{
		"token_text", "token_all", "token_no_scope", "token_expired", "token_of_another", "token_gold", "token_stranger", "token_forged",
	}
}

// expander keeps the first error, so that Expand reads as a list.
type expander struct {
	secrets map[string]string
	handle  func(string) string
	err     error
}

func (e *expander) expandWants(wants []Want) []Want {
	out := make([]Want, len(wants))
	for i, w := range wants {
		w.Value = e.expand(w.Value, true)
		out[i] = w
	}
	return out
}

func (e *expander) expand(s string, expectation bool) string {
	var out strings.Builder
	for {
		before, rest, ok := strings.Cut(s, "${")
		out.WriteString(before)
		if !ok {
			return out.String()
		}
		name, after, ok := strings.Cut(rest, "}")
		if !ok {
			e.fail(fmt.Errorf("${ without } in %q", s))
			return out.String()
		}
		out.WriteString(e.value(name, expectation))
		s = after
	}
}

func (e *expander) value(name string, expectation bool) string {
	if name == requestID && expectation {
		return "${" + requestID + "}"
	}
	if secret, ok := strings.CutPrefix(name, "handle:"); ok {
		if known, ok := e.secrets[secret]; ok {
			secret = known
		} else if strings.HasPrefix(secret, "key_") {
			e.fail(fmt.Errorf("unknown key %q", secret))
		}
		return e.handle(secret)
	}
	secret, ok := e.secrets[name]
	if !ok {
		e.fail(fmt.Errorf("unknown name ${%s}", name))
	}
	return secret
}

func (e *expander) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

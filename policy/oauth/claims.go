package oauth

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/policy/keys"
)

// Claims are what a token says, or an issuer of a token (RFC 7519, 7662, 9068). Only names in
// exactly these letters count.
type Claims struct {
	Issuer    string    // iss
	Audience  []string  // aud, a text or a list
	ExpiresAt time.Time // exp; zero if there is none
	NotBefore time.Time // nbf; zero if there is none

	members map[string]json.RawMessage
}

// ParseClaims reads a JSON object of claims. Errors name the claim and hold nothing of its value.
func ParseClaims(data []byte) (*Claims, error) {
	members, err := object(data)
	if err != nil {
		return nil, err
	}
	c := &Claims{members: members}
	if c.Issuer, err = c.Text("iss"); err == nil {
		c.Audience, err = c.texts("aud")
	}
	if err == nil {
		c.ExpiresAt, err = c.time("exp")
	}
	if err == nil {
		c.NotBefore, err = c.time("nbf")
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Text returns the text of a claim, "" where there is none. Any other type is an error.
func (c *Claims) Text(name string) (string, error) {
	raw, ok := c.members[name]
	if !ok {
		return "", nil
	}
	var text *string
	if err := json.Unmarshal(raw, &text); err != nil || text == nil {
		return "", errors.New("claim " + name + " is not a text")
	}
	return *text, nil
}

// True reports whether a claim is the boolean true, which no text and no number is.
func (c *Claims) True(name string) bool { return string(c.members[name]) == "true" }

// texts returns what a claim has that is a text or a list of texts.
func (c *Claims) texts(name string) ([]string, error) {
	raw, ok := c.members[name]
	if !ok {
		return nil, nil
	}
	var all []*string
	if raw[0] != '[' {
		text, err := c.Text(name)
		return []string{text}, err
	}
	if err := json.Unmarshal(raw, &all); err != nil || slices.Contains(all, nil) {
		return nil, errors.New("claim " + name + " is neither a text nor a list of texts")
	}
	list := make([]string, len(all))
	for i, text := range all {
		list[i] = *text
	}
	return list, nil
}

// lastSecond is the end of the year 9999, beyond which times cannot be written.
const lastSecond = 253402300799

// time returns a NumericDate: seconds since 1970, of which a fraction is cut off.
func (c *Claims) time(name string) (time.Time, error) {
	raw, ok := c.members[name]
	if !ok {
		return time.Time{}, nil
	}
	seconds, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || !(seconds > 0 && seconds <= lastSecond) {
		return time.Time{}, errors.New("claim " + name + " is not a number of seconds since 1970")
	}
	return time.Unix(int64(seconds), 0).UTC(), nil
}

// scopes returns the scopes in a claim: a text with spaces between them, or a list of such.
func (c *Claims) scopes(name string) ([]string, error) {
	texts, err := c.texts(name)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, text := range texts {
		for scope := range strings.SplitSeq(text, " ") {
			if scope != "" && !slices.Contains(all, scope) {
				all = append(all, scope)
			}
		}
	}
	return all, nil
}

// certificate returns the certificate that the token is bound to (RFC 8705 section 3.1). A token
// that is bound to anything else, or to something besides, is an error.
func (c *Claims) certificate() (sum [32]byte, bound bool, err error) {
	raw, bound := c.members["cnf"]
	if !bound {
		return sum, false, nil
	}
	unknown := errors.New("the token is bound to something that is not checked here")
	cnf, err := object(raw)
	if err != nil || len(cnf) != 1 || cnf["x5t#S256"] == nil {
		return sum, true, unknown
	}
	text, err := (&Claims{members: cnf}).Text("x5t#S256")
	if err != nil {
		return sum, true, unknown
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != len(sum) {
		return sum, true, unknown
	}
	return [32]byte(b), true, nil
}

// Judge returns what claims come to at a time that are known to be the issuer's. Everything that a
// token must say is required. Errors: a *RefusedError.
func (i *Issuer) Judge(c *Claims, now time.Time) (*Token, error) {
	switch {
	case c.Issuer != i.URL:
		return nil, refused("iss is another issuer")
	case !slices.ContainsFunc(c.Audience, func(aud string) bool { return slices.Contains(i.Audiences, aud) }):
		return nil, refused("aud does not name this API")
	case c.ExpiresAt.IsZero():
		return nil, refused("there is no exp")
	case !c.NotBefore.IsZero() && now.Add(i.Leeway).Before(c.NotBefore):
		return nil, refused("nbf is ahead")
	}
	t := &Token{Issuer: i, ExpiresAt: c.ExpiresAt}
	if err := i.read(t, c); err != nil {
		return nil, refused(err.Error())
	}
	if t.Expired(now) {
		return nil, &RefusedError{Why: "exp is over", ExpiredAt: t.ExpiresAt}
	}
	client := keys.Client{Issuer: i.URL, ID: t.Client}
	t.RecordID, t.Lookup = client.RecordID(i.API), client.Lookup(i.API)
	t.Texts = t.RecordID + t.Client + t.Team
	return t, nil
}

// read takes what a token says about its client.
func (i *Issuer) read(t *Token, c *Claims) (err error) {
	if t.Client, err = c.Text(i.ClientClaim); err != nil {
		return err
	}
	if problem := ClientProblem(t.Client); problem != "" {
		return errors.New("claim " + i.ClientClaim + " " + problem)
	}
	if t.Scopes, err = c.scopes(i.ScopeClaim); err != nil {
		return err
	}
	if t.Certificate, t.Bound, err = c.certificate(); err != nil {
		return err
	}
	if t.Bound && !i.CertificateBound {
		return errors.New("the token is bound to a certificate, and the policy does not take such")
	}
	if i.PlanClaim != "" {
		if t.Plan, err = c.Text(i.PlanClaim); err != nil {
			return err
		}
	}
	if i.TeamClaim == "" {
		return nil
	}
	if t.Team, err = c.Text(i.TeamClaim); err != nil {
		return err
	}
	if t.Team != "" && !i.knowsTeam(t.Team) {
		return errors.New("claim " + i.TeamClaim + " names a team that the policy does not have")
	}
	return nil
}

func (i *Issuer) knowsTeam(team string) bool {
	if slices.Contains(i.Teams, AnyTeam) {
		return len(team) <= keys.MaxClientIDBytes && printable(team)
	}
	return slices.Contains(i.Teams, team)
}

// ClientProblem says what is wrong with the id of a client, "" if nothing is.
func ClientProblem(id string) string {
	switch {
	case id == "":
		return "is empty"
	case len(id) > keys.MaxClientIDBytes:
		return "is too long"
	case !printable(id):
		return "has characters that are not printable ASCII"
	}
	return ""
}

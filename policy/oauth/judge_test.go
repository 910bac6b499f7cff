package oauth_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/oauth"
	"tollgate/policy/oauth/oauthtest"
)

const (
	issuerURL = "https://login.example.com/tenant"
	audience  = "https://api.example.com"
)

func now() time.Time { return time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC) }

func issuer(changes ...func(*oauth.Issuer)) *oauth.Issuer {
	i := &oauth.Issuer{
		API: "jobs", URL: issuerURL, Audiences: []string{"other", audience}, Algorithms: []string{"RS256", "ES256", "EdDSA"},
		Leeway: 30 * time.Second, ClientClaim: "client_id", ScopeClaim: "scope",
	}
	for _, change := range changes {
		change(i)
	}
	return i
}

// verify is the whole way of a token with the keys of its issuer.
func verify(i *oauth.Issuer, set *oauth.KeySet, text string) (*oauth.Token, error) {
	j, err := oauth.ParseJWT(text)
	if err != nil {
		return nil, err
	}
	if err := i.CheckForm(j); err != nil {
		return nil, err
	}
	keys, _ := set.Find(j.KeyID, j.Algorithm)
	if err := j.Verify(keys); err != nil {
		return nil, err
	}
	return i.Judge(j.Claims, now())
}

func keySet(t *testing.T, jwks ...map[string]any) *oauth.KeySet {
	t.Helper()
	set, err := oauth.ParseKeySet(oauthtest.KeySet(t, jwks...))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestGoodTokens(t *testing.T) {
	for _, algorithm := range []string{"RS256", "ES256", "EdDSA"} {
		s := oauthtest.NewSigner(t, "one", algorithm)
		claims := oauthtest.Claims(issuerURL, audience, "reports", now())
		token, err := verify(issuer(), keySet(t, s.JWK()), s.Token(t, claims))
		if err != nil {
			t.Errorf("%s: %v", algorithm, err)
			continue
		}
		if token.Client != "reports" || strings.Join(token.Scopes, ",") != "text,image" || !token.ExpiresAt.Equal(now().Add(5*time.Minute)) {
			t.Errorf("%s: %+v", algorithm, token)
		}
		if want := (keys.Client{Issuer: issuerURL, ID: "reports"}); token.RecordID != want.RecordID("jobs") || token.Lookup != want.Lookup("jobs") {
			t.Errorf("%s: of client %q", algorithm, token.RecordID)
		}
	}
}

// What differs from a good token in a row: its claims, its header, or the whole text.
type claims = map[string]any

func TestClaims(t *testing.T) {
	s := oauthtest.NewSigner(t, "one", "ES256")
	set := keySet(t, s.JWK())
	for _, tt := range []struct {
		name   string
		change claims // nil takes a claim away
		issuer func(*oauth.Issuer)
		want   string // of the refusal, "" for a good token
	}{
		{"aud is a list with ours last", claims{"aud": []string{"a", "b", audience}}, nil, ""},
		{"aud is a list without ours", claims{"aud": []string{"a", "b"}}, nil, "aud"},
		{"aud is missing", claims{"aud": nil}, nil, "aud"},
		{"aud is a number", claims{"aud": 7}, nil, "aud"},
		{"aud has a null", claims{"aud": []any{nil, audience}}, nil, "aud"},
		{"aud is ours in other letters", claims{"aud": strings.ToUpper(audience)}, nil, "aud"},
		{"iss with a trailing slash", claims{"iss": issuerURL + "/"}, nil, "iss"},
		{"iss of another", claims{"iss": "https://evil.example.com"}, nil, "iss"},
		{"iss is missing", claims{"iss": nil}, nil, "iss"},
		{"iss is a list", claims{"iss": []string{issuerURL}}, nil, "iss"},
		{"exp is missing", claims{"exp": nil}, nil, "exp"},
		{"exp in other letters", claims{"exp": nil, "EXP": now().Add(time.Hour).Unix()}, nil, "exp"},
		{"exp is a text", claims{"exp": "1900000000"}, nil, "exp"},
		{"exp is negative", claims{"exp": -5}, nil, "exp"},
		{"exp is 0", claims{"exp": 0}, nil, "exp"},
		{"exp is huge", claims{"exp": json.Number("1e300")}, nil, "exp"},
		{"exp is out of every range", claims{"exp": json.Number("1e999")}, nil, "exp"},
		{"exp is null", claims{"exp": json.RawMessage("null")}, nil, "exp"},
		{"exp has a fraction", claims{"exp": json.Number("1900000000.5")}, nil, ""},
		{"exp was a second ago, within the leeway", claims{"exp": now().Unix() - 1}, nil, ""},
		{"exp is past the leeway", claims{"exp": now().Unix() - 30}, nil, "exp is over"},
		{"nbf is ahead", claims{"nbf": now().Unix() + 31}, nil, "nbf"},
		{"nbf is within the leeway", claims{"nbf": now().Unix() + 30}, nil, ""},
		{"nbf is a text", claims{"nbf": "soon"}, nil, "nbf"},
		{"client_id is missing", claims{"client_id": nil}, nil, "client_id"},
		{"client_id in other letters", claims{"client_id": nil, "Client_ID": "reports"}, nil, "client_id"},
		{"client_id is empty", claims{"client_id": ""}, nil, "client_id"},
		{"client_id has a line break", claims{"client_id": "a\nb"}, nil, "client_id"},
		{"client_id is long", claims{"client_id": strings.Repeat("c", 129)}, nil, "client_id"},
		{"client_id is a number", claims{"client_id": 12}, nil, "client_id"},
		{"client in azp", claims{"azp": "reports", "client_id": nil}, func(i *oauth.Issuer) { i.ClientClaim = "azp" }, ""},
		{"scp is a list", claims{"scp": []string{"text", "image audio"}}, func(i *oauth.Issuer) { i.ScopeClaim = "scp" }, ""},
		{"scope is missing", claims{"scope": nil}, nil, ""},
		{"scope is a number", claims{"scope": 1}, nil, "scope"},
		{"bound by DPoP", claims{"cnf": claims{"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}, nil, "bound"},
		{"bound by DPoP and a certificate", claims{"cnf": claims{"jkt": "x", "x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}}, bound, "bound"},
		{"bound to a certificate, switched off", claims{"cnf": claims{"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg0"}}, nil, "bound"},
		{"bound to a certificate", claims{"cnf": claims{"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg0"}}, bound, ""},
		{"bound to half a certificate", claims{"cnf": claims{"x5t#S256": "bwcK0esc3ACC"}}, bound, "bound"},
		{"bound to nothing", claims{"cnf": claims{}}, bound, "bound"},
		{"bound to null", claims{"cnf": json.RawMessage("null")}, bound, "bound"},
		{"a plan", claims{"plan": "gold"}, func(i *oauth.Issuer) { i.PlanClaim = "plan" }, ""},
		{"a plan that is no text", claims{"plan": 3}, func(i *oauth.Issuer) { i.PlanClaim = "plan" }, "plan"},
		{"a team that is known", claims{"org": "a"}, teams("a", "b"), ""},
		{"a team that is not known", claims{"org": "c"}, teams("a", "b"), "team"},
		{"any team", claims{"org": "c"}, teams(oauth.AnyTeam), ""},
		{"any team, with a line break", claims{"org": "c\r\nx: y"}, teams(oauth.AnyTeam), "team"},
	} {
		all := oauthtest.Claims(issuerURL, audience, "reports", now())
		maps.Copy(all, tt.change)
		maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
		i := issuer()
		if tt.issuer != nil {
			tt.issuer(i)
		}
		_, err := verify(i, set, s.Token(t, all))
		checkRefusal(t, tt.name, err, tt.want)
	}
}

func bound(i *oauth.Issuer) { i.CertificateBound = true }

func teams(names ...string) func(*oauth.Issuer) {
	return func(i *oauth.Issuer) { i.TeamClaim, i.Teams = "org", names }
}

func checkRefusal(t *testing.T, name string, err error, want string) {
	t.Helper()
	var refused *oauth.RefusedError
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case want != "" && (!errors.As(err, &refused) || !strings.Contains(refused.Why, want)):
		t.Errorf("%s: %v, want a refusal about %s", name, err, want)
	case want != "" && (want == "exp is over") == refused.ExpiredAt.IsZero():
		t.Errorf("%s: expired at %v", name, refused.ExpiredAt)
	}
}

func TestHeaders(t *testing.T) {
	s := oauthtest.NewSigner(t, "one", "ES256")
	set := keySet(t, s.JWK(), oauthtest.NewSigner(t, "two", "RS256").JWK())
	for _, tt := range []struct {
		name   string
		change claims
		want   string
	}{
		{"typ in other letters", claims{"typ": "AT+JWT"}, ""},
		{"typ with its type", claims{"typ": "application/at+jwt"}, ""},
		{"typ JWT", claims{"typ": "JWT"}, "typ"},
		{"typ is missing", claims{"typ": nil}, "typ"},
		{"typ is a number", claims{"typ": 1}, "typ"},
		{"alg none", claims{"alg": "none"}, "alg"},
		{"alg None", claims{"alg": "None"}, "alg"},
		{"alg is missing", claims{"alg": nil}, "alg"},
		{"alg HS256", claims{"alg": "HS256"}, "alg"},
		{"alg of another key", claims{"alg": "RS256"}, "signature"},
		{"kid of another key", claims{"kid": "two"}, "signature"},
		{"kid is a path", claims{"kid": "../../../../dev/null"}, "signature"},
		{"kid is SQL", claims{"kid": "one' OR '1'='1"}, "signature"},
		{"kid is a number", claims{"kid": 1}, "kid"},
		{"no kid", claims{"kid": nil}, ""},
		{"jku", claims{"jku": "https://evil.example.com/jwks"}, "jku"},
		{"x5u", claims{"x5u": "https://evil.example.com/cert"}, "x5u"},
		{"jwk", claims{"jwk": s.JWK()}, "jwk"},
		{"x5c", claims{"x5c": []string{"MIIB"}}, "x5c"},
		{"crit", claims{"crit": []string{"exp"}, "exp": 1}, "crit"},
		{"crit of what the library knows", claims{"crit": []string{"b64"}, "b64": true}, "crit"},
	} {
		header := s.Header()
		maps.Copy(header, tt.change)
		maps.DeleteFunc(header, func(_ string, v any) bool { return v == nil })
		text := s.TokenOf(t, encoded(t, header), encoded(t, oauthtest.Claims(issuerURL, audience, "reports", now())))
		_, err := verify(issuer(), set, text)
		checkRefusal(t, tt.name, err, tt.want)
	}
}

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Tokens whose parts are not what JSON libraries would write.
func TestForms(t *testing.T) {
	s := oauthtest.NewSigner(t, "one", "ES256")
	set := keySet(t, s.JWK())
	good := string(encoded(t, oauthtest.Claims(issuerURL, audience, "reports", now())))
	header := string(encoded(t, s.Header()))
	with := func(member string) string {
		return s.TokenOf(t, []byte(header), []byte(good[:len(good)-1]+","+member+"}"))
	}
	text := s.TokenOf(t, []byte(header), []byte(good))
	for name, tt := range map[string]struct{ text, want string }{
		"good":                          {text, ""},
		"a member twice":                {with(`"iss":"https://evil.example.com"`), "twice"},
		"a member twice, escaped":       {with(`"\u0069ss":"https://evil.example.com"`), "twice"},
		"a member twice, nested":        {with(`"x":{"a":[{"b":1,"b":2}]}`), "twice"},
		"a member twice, in the header": {s.TokenOf(t, []byte(header[:len(header)-1]+`,"alg":"none"}`), []byte(good)), "twice"},
		"half a surrogate pair":         {with(`"x":"\ud800"`), "Unicode"},
		"the other half":                {with(`"x":"\udc00\ud800"`), "Unicode"},
		"half a pair in a name":         {with(`"\ud800x":1`), "Unicode"},
		"a whole pair":                  {with(`"x":"\ud83d\ude00"`), ""},
		"escaped backslashes":           {with(`"x":"\\ud800"`), ""},
		"bytes that are not UTF-8":      {with("\"x\":\"\xff\""), "Unicode"},
		"text after the claims":         {s.TokenOf(t, []byte(header), []byte(good+"{}")), "follows"},
		"a list of claims":              {s.TokenOf(t, []byte(header), []byte("["+good+"]")), "object"},
		"claims that are null":          {s.TokenOf(t, []byte(header), []byte("null")), "object"},
		"claims nested deeply":          {with(`"x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000)), "deeply"},
		"broken claims":                 {s.TokenOf(t, []byte(header), []byte(good[:len(good)-1]+`,`)), "JSON"},
		"four parts":                    {text + ".AAAA", "three parts"},
		"five parts, as encrypted":      {text + ".AAAA.AAAA", "three parts"},
		"two parts":                     {text[:strings.LastIndexByte(text, '.')], "three parts"},
		"an empty signature":            {text[:strings.LastIndexByte(text, '.')+1], "three parts"},
		"many dots":                     {strings.Repeat(".", 8000), "three parts"},
		"8 KiB and a byte":              {with(`"x":"` + strings.Repeat("x", 8<<10) + `"`), "8 KiB"},
		"padded base64":                 {strings.Replace(text, ".", "=.", 1), "base64url"},
		"a signature of zeroes":         {text[:strings.LastIndexByte(text, '.')+1] + base64.RawURLEncoding.EncodeToString(make([]byte, 64)), "signature"},
		"other claims, same signature":  {changed(text, good), "signature"},
		"a signature in another form":   {text + "\n", "line breaks"},
	} {
		_, err := verify(issuer(), set, tt.text)
		checkRefusal(t, name, err, tt.want)
		if err != nil && len(tt.text) > 100 && strings.Contains(err.Error(), tt.text[20:60]) {
			t.Errorf("%s: the error holds a part of the token", name)
		}
	}
}

// changed is a token with more scopes, under the signature of another.
func changed(text, claims string) string {
	parts := strings.Split(text, ".")
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(claims, "text image", "text image audio chat", 1)))
	return strings.Join(parts, ".")
}

// HS256 with the public key as its secret passes where a library takes the key from the set and the
// algorithm from the token.
func TestSymmetricConfusion(t *testing.T) {
	s := oauthtest.NewSigner(t, "one", "RS256")
	i := issuer(func(i *oauth.Issuer) { i.Algorithms = []string{"RS256", "HS256"} }) // which no policy file can say
	header := s.Header()
	header["alg"] = "HS256"
	text := s.TokenOf(t, encoded(t, header), encoded(t, oauthtest.Claims(issuerURL, audience, "reports", now())))
	_, err := verify(i, keySet(t, s.JWK()), text)
	checkRefusal(t, "HS256", err, "alg")
}

func TestKeySets(t *testing.T) {
	ec, rsa, other := oauthtest.NewSigner(t, "ec", "ES256"), oauthtest.NewSigner(t, "rsa", "RS256"), oauthtest.NewSigner(t, "ec", "ES256")
	changed := func(of map[string]any, change claims) map[string]any {
		of = maps.Clone(of)
		maps.Copy(of, change)
		return of
	}
	token := ec.Token(t, oauthtest.Claims(issuerURL, audience, "reports", now()))
	for name, tt := range map[string]struct {
		keys    []map[string]any
		ignored int
		good    bool // the token of ec passes
	}{
		"one":                            {[]map[string]any{ec.JWK()}, 0, true},
		"two with one kid":               {[]map[string]any{other.JWK(), ec.JWK()}, 0, true},
		"six with one kid":               {[]map[string]any{other.JWK(), other.JWK(), other.JWK(), other.JWK(), other.JWK(), ec.JWK()}, 2, false},
		"a kid shared with another kind": {[]map[string]any{changed(rsa.JWK(), claims{"kid": "ec"}), ec.JWK()}, 0, true},
		"a symmetric one besides":        {[]map[string]any{{"kty": "oct", "kid": "ec", "k": "c2VjcmV0"}, ec.JWK()}, 1, true},
		"a private one besides":          {[]map[string]any{changed(ec.JWK(), claims{"d": "AAAA"}), rsa.JWK()}, 1, false},
		"for encryption":                 {[]map[string]any{changed(ec.JWK(), claims{"use": "enc"}), rsa.JWK()}, 1, false},
		"for signing alone":              {[]map[string]any{changed(ec.JWK(), claims{"key_ops": []string{"sign"}}), rsa.JWK()}, 1, false},
		"an unknown kind besides":        {[]map[string]any{{"kty": "AKP?", "kid": "x"}, ec.JWK()}, 1, true},
		"of another algorithm":           {[]map[string]any{changed(ec.JWK(), claims{"alg": "ES384"})}, 0, false},
		"without an algorithm":           {[]map[string]any{changed(ec.JWK(), claims{"alg": nil})}, 0, true},
		"off the curve":                  {[]map[string]any{changed(ec.JWK(), claims{"x": "AAAA"}), rsa.JWK()}, 1, false},
	} {
		set, err := oauth.ParseKeySet(oauthtest.KeySet(t, tt.keys...))
		if tt.ignored == len(tt.keys) {
			if err == nil {
				t.Errorf("%s: taken", name)
			}
			continue
		}
		if err != nil || len(set.Ignored) != tt.ignored {
			t.Errorf("%s: %v, %v", name, err, set)
			continue
		}
		if _, err := verify(issuer(), set, token); (err == nil) != tt.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, doc := range map[string]string{
		"empty": `{"keys":[]}`, "null": `{"keys":null}`, "none": `{}`, "not JSON": `<html>`, "a list": `[]`,
		"keys twice": `{"keys":[],"keys":[]}`, "a text": `{"keys":"x"}`, "in other letters": `{"Keys":[]}`,
		"10 MB": `{"keys":[],"x":"` + strings.Repeat("x", 10<<20) + `"}`, "many": `{"keys":[` + strings.Repeat(`{},`, 200) + `{}]}`,
		"small": `{"keys":[{"kty":"RSA","n":"` + strings.Repeat("_", 170) + `","e":"AQAB"}]}`,
	} {
		if set, err := oauth.ParseKeySet([]byte(doc)); err == nil {
			t.Errorf("%s: taken: %v", name, set)
		}
	}
}

func TestURLs(t *testing.T) {
	for text, good := range map[string]bool{
		"https://login.example.com": true, "https://login.example.com:8443/a/b/": true, "http://127.0.0.1:3000": true, "http://localhost:3000/x": true,
		"http://[::1]:3000": true, "http://login.example.com": false, "ftp://x": false, "https://": false, "https://u@x": false, "https://x?a=b": false,
		"https://x?": false, "https://x#": false, "login.example.com": false, "": false, "https://x/\n": false, "https://x y": false,
		"http://127.0.0.1.evil.example": false, "https://x/" + strings.Repeat("y", 2000): false, "://": false,
	} {
		if err := oauth.CheckURL(text); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestChallenges(t *testing.T) {
	for got, want := range map[string]string{
		oauth.Challenge("jobs", "", "", ""):                                    `Bearer realm="jobs"`,
		oauth.Challenge("jobs", oauth.InvalidToken, "", ""):                    `Bearer realm="jobs", error="invalid_token"`,
		oauth.Challenge("jobs", oauth.InsufficientScope, "text", "https://x/"): `Bearer realm="jobs", error="insufficient_scope", scope="text", resource_metadata="https://x/"`,
		oauth.MetadataURL("https://api.example.com"):                           "https://api.example.com/.well-known/oauth-protected-resource",
		oauth.MetadataURL("https://api.example.com/"):                          "https://api.example.com/.well-known/oauth-protected-resource",
		oauth.MetadataURL("https://api.example.com/v1"):                        "https://api.example.com/.well-known/oauth-protected-resource/v1",
		oauth.MetadataPath("https://api.example.com/v1"):                       "/.well-known/oauth-protected-resource/v1",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	doc, err := oauth.Metadata{Resource: "https://api.example.com", Servers: []string{issuerURL}, Scopes: []string{"text"}}.Document()
	want := `{"resource":"https://api.example.com","authorization_servers":["` + issuerURL + `"],"scopes_supported":["text"],"bearer_methods_supported":["header"]}`
	if err != nil || string(doc) != want {
		t.Errorf("%s, %v", doc, err)
	}
}

func TestSameIssuers(t *testing.T) {
	one, two := issuer(), issuer()
	if !one.Same(one) || !one.Same(two) {
		t.Error("equal issuers differ")
	}
	two.Audiences = []string{audience}
	if one.Same(two) {
		t.Error("different issuers are the same")
	}
	if all := []*oauth.Issuer{one}; oauth.Find(all, issuerURL) != one || oauth.Find(all, issuerURL+"/") != nil {
		t.Error("found by another URL")
	}
}

package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func somePlaces() *CredentialPlaces {
	return &CredentialPlaces{Schemes: []string{"Bearer"}, Headers: []string{"x-api-key", "x-other-key"}, Queries: []string{"api_key", "key"}}
}

func TestCredential(t *testing.T) {
	long := strings.Repeat("k", 512)
	auth := func(values ...string) (h []Header) {
		for _, v := range values {
			h = append(h, Header{"authorization", v})
		}
		return h
	}
	key := func(values ...string) (h []Header) {
		for _, v := range values {
			h = append(h, Header{"x-api-key", v})
		}
		return h
	}
	for _, c := range []struct {
		name    string
		headers []Header
		target  string
		state   credentialState
		secret  string
		strip   string
		rest    string
	}{
		{"nothing", nil, "/a", missing, "", "", ""},
		{"bearer", auth("Bearer K"), "/a", presented, "K", "authorization", ""},
		{"bearer lower case", auth("bearer K"), "/a", presented, "K", "authorization", ""},
		{"bearer mixed case", auth("bEaReR K"), "/a", presented, "K", "authorization", ""},
		{"bearer spaces and tabs", auth(" \tBearer \t  K\t "), "/a", presented, "K", "authorization", ""},
		{"bearer without token", auth("Bearer"), "/a", missing, "", "authorization", ""},
		{"bearer and spaces", auth("Bearer   "), "/a", missing, "", "authorization", ""},
		{"bearer with two tokens", auth("Bearer K L"), "/a", malformed, "K L", "authorization", ""},
		{"bearer run together", auth("BearerK"), "/a", missing, "", "", ""},
		{"empty authorization", auth(""), "/a", missing, "", "", ""},
		{"basic", auth("Basic dTpw"), "/a", missing, "", "", ""},
		{"digest with commas", auth(`Digest username="x", realm="y"`), "/a", missing, "", "", ""},
		{"bearer twice", auth("Bearer K", "Bearer K"), "/a", malformed, "K,Bearer K", "authorization", ""},
		{"bearer joined", auth("Bearer K,L"), "/a", malformed, "K,L", "authorization", ""},
		{"bearer behind basic", auth("Basic dTpw", "Bearer K"), "/a", malformed, "Basic dTpw,Bearer K", "authorization", ""},
		{"bearer behind basic, key alone", append(auth("Basic dTpw", "Bearer K"), key("K")...), "/a", malformed, "Basic dTpw,Bearer K", "authorization,x-api-key", ""},
		{"basic beside key", append(auth("Basic dTpw"), key("K")...), "/a", presented, "K", "x-api-key", ""},
		{"header", key("K"), "/a", presented, "K", "x-api-key", ""},
		{"header with spaces around", key(" K\t"), "/a", presented, "K", "x-api-key", ""},
		{"header with a space inside", key("K L"), "/a", malformed, "K L", "x-api-key", ""},
		{"empty header", key(""), "/a", missing, "", "x-api-key", ""},
		{"header twice", key("K", "K"), "/a", malformed, "K,K", "x-api-key", ""},
		{"two headers alike", append(key("K"), Header{"x-other-key", "K"}), "/a", presented, "K", "x-api-key,x-other-key", ""},
		{"two headers unlike", append(key("K"), Header{"x-other-key", "L"}), "/a", malformed, "K", "x-api-key,x-other-key", ""},
		{"one empty of two", append(key(""), Header{"x-other-key", "L"}), "/a", presented, "L", "x-api-key,x-other-key", ""},
		{"512 bytes", key(long), "/a", presented, long, "x-api-key", ""},
		{"513 bytes", key(long + "k"), "/a", malformed, long + "k", "x-api-key", ""},
		{"not UTF-8", key("K\xff"), "/a", malformed, "K\xff", "x-api-key", ""},
		{"UTF-8", key("é"), "/a", malformed, "é", "x-api-key", ""},
		{"NUL", key("K\x00"), "/a", malformed, "K\x00", "x-api-key", ""},
		{"alphabet", key("AZaz09-._~+/="), "/a", presented, "AZaz09-._~+/=", "x-api-key", ""},
		{"query", nil, "/a?api_key=K", presented, "K", "", "/a"},
		{"query first", nil, "/a?api_key=K&b=%20+&&c", presented, "K", "", "/a?b=%20+&&c"},
		{"query last", nil, "/a?z=1&a=%7e&api_key=K", presented, "K", "", "/a?z=1&a=%7e"},
		{"query between", nil, "/a?z=1&api_key=K&a=2", presented, "K", "", "/a?z=1&a=2"},
		{"query key escaped", nil, "/a?%61pi_key=K&a=1", presented, "K", "", "/a?a=1"},
		{"query key escaped whole", nil, "/a?%61%70%69%5F%6b%65%79=K", presented, "K", "", "/a"},
		{"query key in other case", nil, "/a?API_KEY=K", missing, "", "", ""},
		{"query key with brackets", nil, "/a?api_key[]=K", missing, "", "", ""},
		{"query key with a bad escape", nil, "/a?%6pi_key=K", missing, "", "", ""},
		{"query value escaped", nil, "/a?api_key=%4b", presented, "K", "", "/a"},
		{"query value with plus", nil, "/a?api_key=K+L", presented, "K+L", "", "/a"},
		{"query value with escaped plus", nil, "/a?api_key=K%2BL", presented, "K+L", "", "/a"},
		{"query value with =", nil, "/a?api_key=K=", presented, "K=", "", "/a"},
		{"query value with a bad escape", nil, "/a?api_key=%zz", malformed, "%zz", "", "/a"},
		{"query value with a bad escape, then a good one", nil, "/a?api_key=%zz&key=K", malformed, "%zz", "", "/a"},
		{"query twice alike", nil, "/a?api_key=K&x=1&api_key=K", presented, "K", "", "/a?x=1"},
		{"query twice alike, spelled twice", nil, "/a?api_key=K&%61pi_key=%4B", presented, "K", "", "/a"},
		{"query twice unlike", nil, "/a?api_key=K&x=1&api_key=L", malformed, "K", "", "/a?x=1"},
		{"two query keys alike", nil, "/a?key=K&api_key=K", presented, "K", "", "/a"},
		{"empty query value", nil, "/a?api_key=&x=1", missing, "", "", "/a?x=1"},
		{"query without =", nil, "/a?api_key&x=1", missing, "", "", "/a?x=1"},
		{"empty pairs stay", nil, "/a?&&api_key=K&", presented, "K", "", "/a?&&"},
		{"second question mark", nil, "/a?b?api_key=K", missing, "", "", ""},
		{"second question mark stays", nil, "/a?b?&api_key=K", presented, "K", "", "/a?b?"},
		{"key in a fragment", nil, "/a?b#&api_key=K", presented, "K", "", "/a?b#"},
		{"key in the path", nil, "/api_key=K", missing, "", "", ""},
		{"semicolon is no separator", nil, "/a?b=1;api_key=K", missing, "", "", ""},
		{"everywhere alike", append(auth("Bearer K"), key("K")...), "/a?x=1&api_key=K", presented, "K", "authorization,x-api-key", "/a?x=1"},
		{"query unlike header", key("K"), "/a?api_key=L", malformed, "K", "x-api-key", "/a"},
		{"bearer unlike query", auth("Bearer K"), "/a?api_key=L", malformed, "K", "authorization", "/a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got credential
			somePlaces().read(&Request{Headers: c.headers, Target: c.target}, &got)
			if got.state != c.state || got.secret != c.secret {
				t.Errorf("state %d secret %q, want %d %q", got.state, got.secret, c.state, c.secret)
			}
			if strip := strings.Join(got.strip, ","); strip != c.strip {
				t.Errorf("strip %q, want %q", strip, c.strip)
			}
			if got.target != c.rest {
				t.Errorf("target %q, want %q", got.target, c.rest)
			}
		})
	}
}

func TestCredentialSchemes(t *testing.T) {
	apiKey := CredentialPlaces{Schemes: []string{"APIKEY"}}
	bare := CredentialPlaces{Bare: true}
	all := CredentialPlaces{Schemes: []string{"Bearer", "APIKEY"}, Bare: true}
	for _, c := range []struct {
		name   string
		places CredentialPlaces
		value  string
		state  credentialState
		secret string
	}{
		{"scheme", apiKey, "APIKEY K", presented, "K"},
		{"scheme in other case", apiKey, "ApiKey K", presented, "K"},
		{"scheme without token", apiKey, "APIKEY", missing, ""},
		{"bearer where only another scheme is named", apiKey, "Bearer K", missing, ""},
		{"no scheme where one is named", apiKey, "K", missing, ""},
		{"scheme behind basic", apiKey, "Basic dTpw, APIKEY K", malformed, "Basic dTpw, APIKEY K"},
		{"scheme twice", apiKey, "APIKEY K,APIKEY K", malformed, "K,APIKEY K"},
		{"bare", bare, " K\t", presented, "K"},
		{"bare empty", bare, "", missing, ""},
		{"bare, but a scheme", bare, "Basic dTpw", missing, ""},
		{"bare, but digest", bare, `Digest username="x", qop=auth, realm="y"`, missing, ""},
		{"bare joined", bare, "K,K", malformed, "K,K"},
		{"bare behind basic", bare, "Basic dTpw, K", malformed, "Basic dTpw, K"},
		{"bare with = at its end", bare, "Basic dTpw,K==", malformed, "Basic dTpw,K=="},
		{"all, scheme", all, "apikey K", presented, "K"},
		{"all, bearer", all, "Bearer K", presented, "K"},
		{"all, bare", all, "K", presented, "K"},
		{"all, a scheme alone is no key", all, "Bearer", missing, ""},
		{"all, two unlike", all, "Bearer K, L", malformed, "K, L"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got credential
			c.places.read(&Request{Headers: []Header{{"authorization", c.value}}, Target: "/a"}, &got)
			if got.state != c.state || got.secret != c.secret {
				t.Errorf("state %d secret %q, want %d %q", got.state, got.secret, c.state, c.secret)
			}
			if got.state != missing && !slices.Contains(got.strip, "authorization") {
				t.Error("authorization would reach the application")
			}
		})
	}
}

// Only the places that the policy names are looked at.
func TestCredentialOnlyWherePolicySays(t *testing.T) {
	r := &Request{Headers: []Header{{"authorization", "Bearer K"}, {"x-api-key", "K"}}, Target: "/a?api_key=K"}
	var got credential
	(&CredentialPlaces{Headers: []string{"x-else"}}).read(r, &got)
	if got.state != missing || len(got.strip) != 0 || got.target != "" {
		t.Errorf("%+v", got)
	}
}

// isKeyPair is an independent reading of whether a pair carries a key.
func isKeyPair(pair string) bool {
	name, _, _ := strings.Cut(pair, "=")
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] == '%' {
			var c byte
			if i+3 > len(name) {
				return false
			}
			if n, err := fmt.Sscanf(name[i+1:i+3], "%2x", &c); n != 1 || err != nil || !strings.Contains("0123456789abcdefABCDEF", name[i+2:i+3]) {
				return false
			}
			b.WriteByte(c)
			i += 2
			continue
		}
		b.WriteByte(name[i])
	}
	return b.String() == "api_key" || b.String() == "key"
}

func FuzzCredential(f *testing.F) {
	for _, target := range []string{"/a?api_key=K&b=1", "/a?%61pi_key=K", "/a?&&key=K&", "/a", "?key=K", "/a?key=%zz&key=K", "/a?key=K?key=K"} {
		f.Add(target, "Bearer K", "K")
		f.Add(target, "Basic x,Bearer K", "")
	}
	f.Fuzz(func(t *testing.T, target, authorization, header string) {
		r := &Request{Target: target, Headers: []Header{{"authorization", authorization}, {"x-api-key", header}}}
		var c credential
		somePlaces().read(r, &c)
		if c.state == presented && (c.secret == "" || len(c.secret) > maxSecret || strings.ContainsFunc(c.secret, func(r rune) bool { return r <= ' ' || r > '~' || r == ',' })) {
			t.Fatalf("secret %q", c.secret)
		}
		path, query, _ := strings.Cut(target, "?")
		var kept []string
		pairs := strings.Split(query, "&")
		for _, pair := range pairs {
			if !isKeyPair(pair) {
				kept = append(kept, pair)
			}
		}
		want := ""
		switch {
		case len(kept) == len(pairs):
		case len(kept) == 0:
			want = path
		default:
			want = path + "?" + strings.Join(kept, "&")
		}
		if c.target != want {
			t.Fatalf("target %q, want %q", c.target, want)
		}
		if c.target != "" {
			_, left, _ := strings.Cut(c.target, "?")
			if slices.ContainsFunc(strings.Split(left, "&"), isKeyPair) {
				t.Fatalf("the key is still in %q", c.target)
			}
		}
	})
}

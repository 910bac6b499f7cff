package introspection

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"strings"
	"testing"

	jose "github.com/go-jose/go-jose/v4"

	"tollgate/policy/oauth"
)

func pemOf(t *testing.T, kind string, der []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func must[K any](t *testing.T) func(k K, err error) K {
	return func(k K, err error) K {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
}

// Every kind of key proves who asks, in an assertion that is good for a minute and once (RFC 7523).
func TestAssertions(t *testing.T) {
	r := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	p256 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p384 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	pkcs8 := func(k any) string {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		return pemOf(t, "PRIVATE KEY", der, err)
	}
	sec1, err := x509.MarshalECPrivateKey(p256)
	jwk := must[[]byte](t)(json.Marshal(jose.JSONWebKey{Key: r, KeyID: "k1", Algorithm: "PS256"}))
	for name, test := range map[string]struct {
		file      string
		algorithm jose.SignatureAlgorithm
		public    crypto.PublicKey
	}{
		"PKCS #8 RSA":     {pkcs8(r), jose.RS256, r.Public()},
		"PKCS #1":         {pemOf(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r), nil), jose.RS256, r.Public()},
		"PKCS #8 P-384":   {pkcs8(p384), jose.ES384, p384.Public()},
		"SEC 1":           {pemOf(t, "EC PRIVATE KEY", sec1, err), jose.ES256, p256.Public()},
		"PKCS #8 Ed25519": {pkcs8(ed), jose.EdDSA, ed.Public()},
		"JWK":             {string(jwk), jose.PS256, r.Public()},
	} {
		f := newFixture(t)
		path := file(t, test.file)
		f.issuer.Introspection.SecretFile, f.issuer.Introspection.KeyFile = "", path
		if err := CheckCredential(f.issuer.Introspection); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		seen := map[string]bool{}
		f.does(func(w http.ResponseWriter, r *http.Request) {
			_ = r.ParseForm()
			parsed, err := jose.ParseSignedCompact(r.PostForm.Get("client_assertion"), []jose.SignatureAlgorithm{test.algorithm})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			payload, err := parsed.Verify(test.public)
			if err != nil || parsed.Signatures[0].Header.KeyID != map[string]string{"JWK": "k1"}[name] {
				t.Errorf("%s: %v, kid %q", name, err, parsed.Signatures[0].Header.KeyID)
			}
			var c struct {
				Iss, Sub, Aud, Jti string
				Iat, Exp           int64
			}
			if err := json.Unmarshal(payload, &c); err != nil || c.Iss != "tollgate" || c.Sub != "tollgate" || c.Aud != f.issuer.URL ||
				c.Iat != f.clock.now().Unix() || c.Exp-c.Iat != 60 || len(c.Jti) < 20 || seen[c.Jti] {
				t.Errorf("%s: %s, %v", name, payload, err)
			}
			seen[c.Jti] = true
			if _, _, basic := r.BasicAuth(); basic || r.PostForm.Get("client_id") != "tollgate" || r.PostForm.Get("client_assertion_type") != assertionType {
				t.Errorf("%s: %v", name, r.PostForm)
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(f.claims()))
		})
		f.allows(t, "one")
		f.allows(t, "two")
		if len(seen) != 2 {
			t.Errorf("%s: %d assertions", name, len(seen))
		}
	}
}

// Another secret or key in the file counts with the next call.
func TestCredentialsAreReadAgain(t *testing.T) {
	f := newFixture(t)
	var passwords []string
	f.does(func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		passwords = append(passwords, password)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(f.claims()))
	})
	f.allows(t, "one")
	if err := os.WriteFile(f.issuer.Introspection.SecretFile, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.allows(t, "two")
	if strings.Join(passwords, " ") != "s3cret%2B%2F%3D%25 another" {
		t.Errorf("%q", passwords)
	}
	if err := os.Remove(f.issuer.Introspection.SecretFile); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ask(t, "three"); !isUndecided(err) {
		t.Errorf("%v", err)
	}
}

// What cannot be a credential is known when the policy is loaded.
func TestBadCredentials(t *testing.T) {
	small := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 1024))
	p224 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	der224, err := x509.MarshalPKCS8PrivateKey(p224)
	if err != nil {
		t.Fatal(err)
	}
	p256 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	wrongAlg := string(must[[]byte](t)(json.Marshal(jose.JSONWebKey{Key: p256, Algorithm: "RS256"})))
	oneLetter := string(must[[]byte](t)(json.Marshal(jose.JSONWebKey{Key: p256, Algorithm: "E"})))
	public := string(must[[]byte](t)(json.Marshal(jose.JSONWebKey{Key: p256.Public()})))
	for name, content := range map[string]string{
		"empty": "", "only a line break": "\n", "two lines": "one\ntwo\n", "not ASCII": "geheimnüs", "huge": strings.Repeat("x", maxFile+1),
	} {
		if err := CheckCredential(&oauth.Introspection{ClientID: "tollgate", SecretFile: file(t, content)}); err == nil {
			t.Errorf("%s secret is taken", name)
		} else if content != "" && len(content) > 2 && strings.Contains(err.Error(), content) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, content := range map[string]string{
		"nothing": "", "text": "secret", "weak RSA": pemOf(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(small), nil),
		"another curve": pemOf(t, "PRIVATE KEY", der224, nil), "a certificate": pemOf(t, "CERTIFICATE", []byte("x"), nil),
		"broken": pemOf(t, "PRIVATE KEY", []byte("x"), nil), "of another alg": wrongAlg, "of no alg": oneLetter, "public": public,
		"symmetric": `{"kty":"oct","k":"c2VjcmV0"}`, "encrypted": pemOf(t, "ENCRYPTED PRIVATE KEY", []byte("x"), nil),
	} {
		if err := CheckCredential(&oauth.Introspection{ClientID: "tollgate", KeyFile: file(t, content)}); err == nil {
			t.Errorf("%s: the key is taken", name)
		}
	}
	for _, i := range []*oauth.Introspection{{SecretFile: "/nowhere/secret"}, {KeyFile: "/nowhere/key"}} {
		if err := CheckCredential(i); err == nil || strings.Contains(err.Error(), "nowhere") {
			t.Errorf("%v", err)
		}
	}
}

// Package oauthtest makes access tokens, and an authorization server that tests can command. It
// signs by the standard library alone, so that what it makes is not judged by what made it.
package oauthtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"testing"
	"time"
)

// Signer is a key of an issuer.
type Signer struct {
	KeyID     string
	Algorithm string // RS256, ES256 or EdDSA
	private   crypto.Signer
}

// NewSigner makes a key.
func NewSigner(t testing.TB, keyID, algorithm string) *Signer {
	t.Helper()
	s := &Signer{KeyID: keyID, Algorithm: algorithm}
	var err error
	switch algorithm {
	case "RS256":
		s.private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		s.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, s.private, err = ed25519.GenerateKey(rand.Reader)
	default:
		t.Fatalf("no algorithm %q", algorithm)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Public returns the key's public half.
func (s *Signer) Public() crypto.PublicKey { return s.private.Public() }

// JWK returns the members of the public key as a JWK (RFC 7517), to be changed at will.
func (s *Signer) JWK() map[string]any {
	jwk := map[string]any{"kid": s.KeyID, "use": "sig", "alg": s.Algorithm}
	switch public := s.private.Public().(type) {
	case *rsa.PublicKey:
		jwk["kty"], jwk["n"], jwk["e"] = "RSA", encode(public.N.Bytes()), encode(big.NewInt(int64(public.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := public.Bytes() // 4, then X and Y
		if err != nil {
			panic(err) // not for a key that was just made
		}
		jwk["kty"], jwk["crv"], jwk["x"], jwk["y"] = "EC", "P-256", encode(point[1:33]), encode(point[33:])
	case ed25519.PublicKey:
		jwk["kty"], jwk["crv"], jwk["x"] = "OKP", "Ed25519", encode(public)
	}
	return jwk
}

// KeySet is the JWK Set of some keys.
func KeySet(t testing.TB, jwks ...map[string]any) []byte {
	t.Helper()
	return marshal(t, map[string]any{"keys": jwks})
}

// Header is that of a good token of the signer, to be changed at will.
func (s *Signer) Header() map[string]any {
	return map[string]any{"alg": s.Algorithm, "kid": s.KeyID, "typ": "at+jwt"}
}

// Token is a token with these claims and a good header.
func (s *Signer) Token(t testing.TB, claims map[string]any) string {
	t.Helper()
	return s.TokenOf(t, marshal(t, s.Header()), marshal(t, claims))
}

// TokenOf is a token with any header and any claims, with a signature that is good for them.
func (s *Signer) TokenOf(t testing.TB, header, claims []byte) string {
	t.Helper()
	signed := encode(header) + "." + encode(claims)
	sum := sha256.Sum256([]byte(signed))
	var signature []byte
	var err error
	switch private := s.private.(type) {
	case *rsa.PrivateKey:
		signature, err = rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, sum[:])
	case *ecdsa.PrivateKey:
		var r, v *big.Int
		if r, v, err = ecdsa.Sign(rand.Reader, private, sum[:]); err == nil {
			signature = make([]byte, 64)
			r.FillBytes(signature[:32])
			v.FillBytes(signature[32:])
		}
	case ed25519.PrivateKey:
		signature = ed25519.Sign(private, []byte(signed))
	}
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + encode(signature)
}

// Claims are those of a good token (RFC 9068) of an issuer for an audience that ends in five
// minutes, to be changed at will.
func Claims(issuer, audience, client string, now time.Time) map[string]any {
	return map[string]any{
		"iss": issuer, "aud": audience, "client_id": client, "sub": client, "scope": "text image",
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "jti": rand.Text(),
	}
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

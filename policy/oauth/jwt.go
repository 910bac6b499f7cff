package oauth

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"

	jose "github.com/go-jose/go-jose/v4"
)

// JWT is a signed JWT that was read and not verified.
type JWT struct {
	Algorithm string
	KeyID     string // "" if the token names none
	Type      string
	Claims    *Claims

	text    string
	payload []byte
}

// ParseJWT reads a token as far as that can be done without a key. Errors: a *RefusedError.
func ParseJWT(text string) (*JWT, error) {
	if len(text) > MaxToken {
		return nil, refused("it is longer than 8 KiB")
	}
	if !IsJWT(text) {
		return nil, refused("it is not three parts with dots between them")
	}
	if strings.ContainsAny(text, "\r\n") { // which Go's decoder skips, so that texts that differ would be one token
		return nil, refused("it has line breaks")
	}
	header, rest, _ := strings.Cut(text, ".")
	payload, _, _ := strings.Cut(rest, ".")
	j := &JWT{text: text}
	if err := j.readHeader(header); err != nil {
		return nil, err
	}
	var err error
	if j.payload, err = base64.RawURLEncoding.Strict().DecodeString(payload); err != nil {
		return nil, refused("its claims are not base64url")
	}
	if j.Claims, err = ParseClaims(j.payload); err != nil {
		return nil, refused(err.Error())
	}
	return j, nil
}

// readHeader reads the header. One that carries a key, says where one is, or asks for an extension
// is refused: keys are the issuer's, from where the issuer has them, and we know no extension.
func (j *JWT) readHeader(text string) error {
	data, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return refused("its header is not base64url")
	}
	members, err := object(data)
	if err != nil {
		return refused("its header: " + err.Error())
	}
	for _, name := range [...]string{"jwk", "jku", "x5c", "x5u", "crit", "b64", "enc", "zip", "nonce"} {
		if members[name] != nil {
			return refused("its header has " + name)
		}
	}
	header := &Claims{members: members}
	for name, to := range map[string]*string{"alg": &j.Algorithm, "kid": &j.KeyID, "typ": &j.Type} {
		if *to, err = header.Text(name); err != nil {
			return refused("its header: " + strings.TrimPrefix(err.Error(), "claim "))
		}
	}
	return nil
}

// CheckForm judges what of a token must be right before its signature is looked at.
func (i *Issuer) CheckForm(j *JWT) error {
	switch {
	case !slices.Contains(i.Algorithms, j.Algorithm) || !IsAlgorithm(j.Algorithm):
		return refused("alg is none that the policy takes")
	case !i.AnyType && strings.TrimPrefix(strings.ToLower(j.Type), "application/") != "at+jwt":
		return refused("typ is not at+jwt")
	}
	return nil
}

// Verify reports whether one of the keys has made the signature. They are those that KeySet.Find
// returns for the token.
func (j *JWT) Verify(keys []Key) error {
	signed, err := jose.ParseSignedCompact(j.text, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(j.Algorithm)})
	if err != nil {
		return refused("it is not a signed JWT")
	}
	for _, k := range keys {
		// That the bytes are the same is what makes the claims the signed ones.
		if payload, err := signed.Verify(k.public); err == nil && bytes.Equal(payload, j.payload) {
			return nil
		}
	}
	return refused("the signature is not the issuer's")
}

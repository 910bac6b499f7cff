package introspection

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"tollgate/policy/keys/smallfile"
	"tollgate/policy/oauth"
)

// credential is what this server proves to an issuer that it may ask. Its file is read again for
// each call, so that another secret or key needs no restart.
type credential struct {
	name sourceName
	now  func() time.Time

	mu     sync.Mutex
	file   []byte      // of the key, as it was read last
	signer jose.Signer // by the key in it
}

const (
	maxFile = 64 << 10
	// An assertion is used at once, so it need not be good for longer than clocks differ.
	assertionAge = time.Minute
	// assertionType is that of private_key_jwt (RFC 7523 section 2.2).
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	leastRSA      = 2048 // bits
)

// CheckCredential says what is wrong with the file of a credential, without any of its content; nil
// if nothing is.
func CheckCredential(i *oauth.Introspection) error {
	c := credential{name: sourceName{client: i.ClientID, secretFile: i.SecretFile, keyFile: i.KeyFile}, now: time.Now}
	_, _, err := c.authenticate(&oauth.Issuer{}, url.Values{})
	return err
}

// authenticate adds to a form what says who asks, or returns a user and a password that do.
func (c *credential) authenticate(i *oauth.Issuer, form url.Values) (user, password string, err error) {
	if c.name.keyFile == "" {
		secret, err := c.secret()
		return c.name.client, secret, err
	}
	assertion, err := c.assertion(i)
	if err != nil {
		return "", "", err
	}
	form.Set("client_id", c.name.client)
	form.Set("client_assertion_type", assertionType)
	form.Set("client_assertion", assertion)
	return "", "", nil
}

// secret reads the client's secret. A line break at its end is none of it.
func (c *credential) secret() (string, error) {
	data, err := smallfile.Read(c.name.secretFile, maxFile)
	if err != nil {
		return "", readError(err)
	}
	text := string(bytes.TrimRight(data, "\r\n"))
	if text == "" {
		return "", errors.New("the file of the client secret is empty")
	}
	for _, b := range []byte(text) {
		if b < ' ' || b > '~' {
			return "", errors.New("the file of the client secret has what is not printable ASCII, or more than a line")
		}
	}
	return text, nil
}

// readError names no file: where it is, is known to who has written the policy, and whoever reads
// what comes of a call need not be he.
func readError(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return fmt.Errorf("the file of the credential cannot be read: %w", path.Err)
	}
	return errors.New("the file of the credential is too large")
}

// assertion is a JWT by which the issuer knows the client (RFC 7523 section 3).
func (c *credential) assertion(i *oauth.Issuer) (string, error) {
	signer, err := c.signerOfFile()
	if err != nil {
		return "", err
	}
	now := c.now()
	claims, err := json.Marshal(map[string]any{
		"iss": c.name.client, "sub": c.name.client, "aud": i.URL, "jti": rand.Text(),
		"iat": now.Unix(), "exp": now.Add(assertionAge).Unix(),
	})
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		return "", errors.New("the client's assertion cannot be signed")
	}
	return signed.CompactSerialize()
}

func (c *credential) signerOfFile() (jose.Signer, error) {
	data, err := smallfile.Read(c.name.keyFile, maxFile)
	if err != nil {
		return nil, readError(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.signer != nil && bytes.Equal(data, c.file) {
		return c.signer, nil
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: *key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, errors.New("the client's key cannot sign")
	}
	c.file, c.signer = data, signer
	return signer, nil
}

// parseKey reads a private key: PEM (PKCS #8, PKCS #1 or SEC 1), or a JWK, which may have a kid and
// an alg. A key in PEM has no kid: issuers that look for one would not find another than theirs.
func parseKey(data []byte) (*jose.JSONWebKey, error) {
	key := &jose.JSONWebKey{}
	if block, _ := pem.Decode(data); block != nil {
		private, err := parsePEM(block)
		if err != nil {
			return nil, err
		}
		key.Key = private
	} else if err := key.UnmarshalJSON(data); err != nil {
		return nil, errors.New("the file of the client's key holds neither PEM nor a JWK")
	}
	algorithm, err := algorithmOf(key.Key)
	if err != nil {
		return nil, err
	}
	if key.Algorithm == "" {
		key.Algorithm = algorithm
	}
	if key.Algorithm != algorithm && !(algorithm == "RS256" && oauth.IsAlgorithm(key.Algorithm) && strings.Contains("RS PS", key.Algorithm[:2])) {
		return nil, errors.New("the client's key is not for its alg")
	}
	return key, nil
}

func parsePEM(block *pem.Block) (key any, err error) {
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, errors.New("the file of the client's key holds no private key in PEM, or an encrypted one")
	}
	if err != nil {
		return nil, errors.New("the private key in the file of the client's key is broken")
	}
	return key, nil
}

// algorithmOf is the signature that every issuer knows of such a key.
func algorithmOf(key any) (string, error) {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if key.N.BitLen() < leastRSA {
			return "", fmt.Errorf("the client's RSA key has less than %d bits", leastRSA)
		}
		return "RS256", nil
	case *ecdsa.PrivateKey:
		for curve, name := range map[elliptic.Curve]string{elliptic.P256(): "ES256", elliptic.P384(): "ES384", elliptic.P521(): "ES512"} {
			if key.Curve == curve {
				return name, nil
			}
		}
	case ed25519.PrivateKey:
		return "EdDSA", nil
	}
	return "", errors.New("the client's key is no private RSA, EC or Ed25519 key")
}

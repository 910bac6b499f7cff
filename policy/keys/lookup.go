package keys

import (
	"errors"
	"net/netip"
)

// What a look-up by a secret can say instead of a key. Test with errors.Is.
var (
	ErrUnknown = errors.New("keys: no key has this secret")
	// ErrBusy says that the store was not asked about a secret that was never seen here, because
	// the caller, or all callers together, asked about too many unknown ones in the last second.
	ErrBusy = errors.New("keys: too many look-ups of unknown secrets")
)

// CorruptError says that the store answered, but what it holds for one key cannot be used. That key
// fails closed; others are not touched.
type CorruptError struct {
	ID  string // of the key, "" if even that is not known
	Err error  // why; holds neither secret nor digest
}

// Error names the key and the reason.
func (e *CorruptError) Error() string {
	id := e.ID
	if id == "" {
		id = "(unknown id)"
	}
	return "keys: the record of " + id + " is corrupt: " + e.Err.Error()
}

// Unwrap gives the reason.
func (e *CorruptError) Unwrap() error { return e.Err }

// AboutKey reports whether err says something about one key instead of about the store.
func AboutKey(err error) bool {
	var corrupt *CorruptError
	return errors.Is(err, ErrUnknown) || errors.As(err, &corrupt)
}

// Caller is who presents a secret, as far as that is known before its key is. The zero value is
// everybody about whom nothing is known.
type Caller struct {
	API     string
	Address netip.Addr // invalid where it is not known
	// More says that the same secret is looked up by another digest if this one is unknown, so that
	// this one does not tell a guess from a key.
	More bool
	// Verified says that the digest is not of a secret but of a client that was verified: it is no
	// guess, so no bound for guesses holds it up.
	Verified bool
}

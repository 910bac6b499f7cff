package keys

// MaxAddresses is how many addresses a key's list may have where the policy does not say more.
const MaxAddresses = 1000

// Rules is what the policies say about keys. policy.Set implements it.
type Rules interface {
	// ValidateKey reports what in a key the policy of its API does not know.
	ValidateKey(k *Key) error
	// Cap returns the most active keys that a team may have in the environment on the plan; capped
	// is false for no such limit.
	Cap(api, plan, environment string) (most int, capped bool)
	// HoldsSecret reports whether a text holds something of the form of a key of the API.
	HoldsSecret(api, text string) bool
	// Limit returns the size of a limit of a plan; known is false for a plan or limit that there is
	// not.
	Limit(api, plan, name string) (requests int64, known bool)
	// ValidateLimits reports an override with which a request of the key could never be allowed.
	ValidateLimits(k *Key) error
	// ValidateExtra reports an extra of a limit that the key has not.
	ValidateExtra(k *Key, x Extra) error
	// ValidateSecret reports why a secret could never be accepted as that of a key, without showing
	// it.
	ValidateSecret(k *Key, secret string) error
	// MaxAddresses returns how many addresses a key's list may have; less than MaxAddresses means
	// that.
	MaxAddresses(api string) int
	// Prefix returns what secrets of the environment start with; "" where the policy names no
	// prefix.
	Prefix(api, environment string) (prefix string, err error)
}

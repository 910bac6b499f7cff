package limits

// BrokenError says that the limits themselves are at fault, not the way to the store: an invalid
// Spend, a stored value that is no counter, an answer that cannot be right. Trying again does not
// help, and it must never be taken for a store that is away.
type BrokenError struct{ Err error }

// Error gives the reason.
func (e *BrokenError) Error() string { return e.Err.Error() }

// Unwrap gives the reason.
func (e *BrokenError) Unwrap() error { return e.Err }

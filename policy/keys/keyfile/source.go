package keyfile

import "errors"

// ErrSource is what an error of a reader of records is after which there are no more records. Any
// other error of such a reader concerns one record.
var ErrSource = errors.New("keys: the source cannot be read on")

// Record is one key as a source has it. What the source does not say is zero; scopes that are not
// nil but empty are given. It redacts its secret wherever it is printed.
type Record struct {
	Line int // of the source, from 1
	Entry
	Narrowed bool // the source said elsewhere what narrows the key, and that was taken over
}

// IgnoredError is what a reader of records says of a part of its source that is no key and narrows
// none: it is counted, and nothing else is done.
type IgnoredError struct{ What string }

// Error says what is passed over. It holds no secret.
func (e *IgnoredError) Error() string { return e.What }

// Defaults is what a record gets where its source says nothing.
type Defaults struct {
	API, Team, Environment, Plan string
	Scopes                       []string
}

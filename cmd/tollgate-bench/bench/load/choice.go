package load

import "math/rand/v2"

// choice is a repeatable sequence of keys, of one caller.
type choice struct {
	zipf  *rand.Zipf // nil: each equally often
	plain *rand.Rand
	keys  uint64
}

// newChoice returns the sequence of one caller. Key 0 is the hottest.
func newChoice(j *Job, caller, keys int) *choice {
	source := rand.New(rand.NewPCG(j.Seed, uint64(caller)))
	c := &choice{plain: source, keys: uint64(keys)}
	if j.Zipf > 1 && keys > 1 {
		c.zipf = rand.NewZipf(source, j.Zipf, 1, uint64(keys-1))
	}
	return c
}

func (c *choice) next() int {
	if c.zipf != nil {
		return int(c.zipf.Uint64())
	}
	return int(c.plain.Uint64N(c.keys))
}

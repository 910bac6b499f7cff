package bench

import "time"

// The servers that are measured.
const (
	stock  = "always-allow" // the yardstick
	floor  = "grpc-go"      // grpc-go alone with our settings, bytes in and bytes out
	leased = "leased"
	exact  = "exact"
	// concurrent also takes a slot for each check, which an access log of the load releases.
	concurrent = "concurrent"
)

// limitsOf returns the arguments of serve for one of ours: how it spends limits, and what it does
// besides.
func limitsOf(server string) []string {
	switch server {
	case exact:
		return []string{"--limits", "exact"}
	case plain:
		return []string{"--limits", "auto", "--usage=false", "--error-log=false"}
	}
	return []string{"--limits", "auto"}
}

// testCase is one kind of check that is measured.
type testCase struct {
	id, name string
	server   string
	keys     string // of the key sets
	reason   string // that every check must be decided with; "" where nothing is decided
	// The lines to reach; 0 means none.
	ratio       float64 // server CPU to that of case a
	redis       float64 // Redis CPU to the server CPU of case a
	redisNone   bool    // the store is not asked at all
	logged      bool    // the load sends an access log
	lookups     float64 // spends in the store for each second in which a key was used
	allocations float64 // objects beyond those of grpc-go alone
	bytes       float64 // bytes beyond those of grpc-go alone
}

// cases are what is measured, in the order of the table. The first is what the
// others are compared with.
func cases() []testCase {
	return []testCase{
		{id: "a", name: "always allow, stock grpc-go", server: stock, keys: known},
		{id: "b", name: "key, address, scope, 3 windows; leased", server: leased, keys: known, reason: "allowed",
			ratio: .70, redis: .07, allocations: 3, bytes: 1024},
		{id: "c", name: "the same; exact", server: exact, keys: known, reason: "allowed", ratio: 1, redis: .32},
		{id: "d", name: "denied by rate limit", server: leased, keys: spent, reason: "rate_limited", ratio: .75, lookups: 1},
		{id: "e", name: "unknown key", server: leased, keys: unknown, reason: "unknown_key", ratio: .75, redis: .02},
		{id: "f", name: "malformed key", server: leased, keys: malformed, reason: "malformed_credential", ratio: .65, redisNone: true},
		{id: "g", name: "as (c), and a slot, released by the access log", server: concurrent, keys: underWay, reason: "allowed", ratio: 1.15, logged: true},
		{id: "h", name: "grpc-go alone with our settings, nothing decoded", server: floor, keys: known},
	}
}

// The key sets of the cases.
const (
	known     = "known"
	spent     = "spent"
	unknown   = "unknown"
	malformed = "malformed"
	underWay  = "underway"
)

// keySets returns the key sets. There are fewer unknown keys than known ones,
// because a server asks its store about 2,000 unknown secrets a second at most, and
// what is measured is that they come again.
func keySets(size int) map[string]keySet {
	return map[string]keySet{
		known:     {name: known, size: size, windows: loadWindows},
		spent:     {name: spent, size: size, windows: loadWindows, spent: true},
		unknown:   {name: unknown, size: min(size, 1_000)},
		underWay:  {name: underWay, size: size, windows: loadWindows, concurrent: true},
		malformed: {name: malformed, size: size, broken: true},
	}
}

// noRedis is what counts as no Redis CPU, of case a's server CPU: the store's own
// clock and the heartbeat of its servers go on all the time.
const noRedis = .002

// lines judges a case by its row; base is the row of grpc-go alone.
func (c testCase) lines(r, base *Row, o *Options) []Line {
	var list []Line
	if c.ratio > 0 {
		list = append(list, Line{Case: c.id, What: "server CPU, ratio to (a)", Limit: c.ratio, Got: r.Ratio.Median, Guards: o.Judge})
	}
	line := func(what string, limit, got float64, guards bool) {
		list = append(list, Line{Case: c.id, What: what, Limit: limit, Got: got, Guards: guards, ZeroCounts: true})
	}
	if c.redis > 0 {
		line("Redis CPU, ratio to (a)", c.redis, r.RedisRatio.Median, false)
	}
	if c.redisNone {
		line("Redis CPU, ratio to (a) (none)", noRedis, r.RedisRatio.Median, false)
	}
	if c.lookups > 0 {
		line("look-ups per key, replica and second", c.lookups, r.Lookups.Median, false)
	}
	beyond := func(what string, limit float64, r, base Stat) {
		line(what+" per check beyond grpc-go's", limit, r.Median-base.Median, o.JudgeMemory)
		if o.Duration < time.Second {
			list[len(list)-1].Slack = base.Median * shortSlack
		}
	}
	if c.allocations > 0 {
		beyond("allocations", c.allocations, r.Allocations, base.Allocations)
	}
	if c.bytes > 0 {
		beyond("bytes allocated", c.bytes, r.Bytes, base.Bytes)
	}
	return list
}

// shortSlack is by how much of what grpc-go allocates that can differ between two
// measurements of a fraction of a second: how many calls it writes at a time follows
// the machine's load. What is looked for is a small difference of two such figures.
const shortSlack = .02

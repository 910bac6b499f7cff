package connect

import (
	"slices"
	"strings"
)

// An ACL is what one user of Redis may do, as rules for ACL SETUSER: nothing but these commands,
// keys and channels.
type ACL struct {
	Commands []string // names as in ACL rules: get, cluster|slots
	Keys     []string // key patterns; %R~ before one allows to read alone
	Channels []string // pub/sub channel patterns
}

// Rules returns the rules as ACL SETUSER, users.acl and redis.conf write them, from a user without
// any rights. On, off and the password are left to the operator. They need Redis 7.0 or later. A
// database other than 0 needs +select as well, client_name needs +client|setname.
func (a ACL) Rules() []string {
	rules := []string{"resetkeys", "resetchannels", "-@all"}
	for _, c := range a.Commands {
		rules = append(rules, "+"+c)
	}
	for _, k := range a.Keys {
		if !strings.HasPrefix(k, "%") {
			k = "~" + k
		}
		rules = append(rules, k)
	}
	for _, c := range a.Channels {
		rules = append(rules, "&"+c)
	}
	return rules
}

// With returns the rights of both.
func (a ACL) With(o ACL) ACL {
	return ACL{both(a.Commands, o.Commands), both(a.Keys, o.Keys), both(a.Channels, o.Channels)}
}

func both(a, b []string) []string {
	all := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(all, x) {
			all = append(all, x)
		}
	}
	return all
}

// ServerACL is what `tollgate serve` needs on every Redis, cluster nodes included: to find and
// count, to add the keys of its keys file, to rehash one, both with a word in the audit stream, and
// to note its use.
func ServerACL() ACL {
	return ACL{
		Commands: append(keyCommands(),
			"hmget", "pexpireat", // count: policy/limits/counters/spend.lua
			"subscribe", // hear of changes; publish sends the heartbeat as well
			"info",      // see what the store does when its memory is full
			"hgetall",   // forget servers that are gone
		),
		Keys:     append(keyPatterns(), "tg:v1:count:*"),
		Channels: []string{"tg:v1:changes"},
	}
}

// CLIACL is what the commands that manage keys, teams and members need on every Redis, cluster
// nodes included. It cannot touch a counter. It could trim the audit stream, because XADD does.
func CLIACL() ACL {
	return ACL{
		Commands: append(keyCommands(),
			"smembers", "zrangebylex", "hgetall", // list keys, keep caps
			"wait", "info", "exists", // confirm a revocation
			"hsetnx", "hmget", "hlen", "hexists", "zrange", // teams and members
			"xrange", "xrevrange", // audit
			"scan", "zscore", "hscan", // repair
		),
		Keys:     append(keyPatterns(), "tg:v1:teams", "tg:v1:members:*", "tg:v1:member:*", "tg:v1:replicas"),
		Channels: []string{"tg:v1:changes"},
	}
}

// keyCommands are those of finding, adding and changing keys, and of any connection.
func keyCommands() []string {
	return []string{
		"ping",
		"evalsha", "eval", // scripts; eval brings one that a server has not seen yet
		"get", "set", "del", "time", "publish", // records and secrets
		"xadd",                                         // audit
		"sadd", "zadd", "zrem", "hget", "hset", "hdel", // the lists of keys by API and team
		"cluster|slots", "asking", // only a cluster is asked these
	}
}

func keyPatterns() []string {
	return []string{"tg:v1:key:*", "tg:v1:secret:*", "tg:v1:used:*", "tg:v1:apis", "tg:v1:index:*", "tg:v1:team:*", "tg:v1:audit", "tg:v1:pepper", "tg:v1:store:*", "tg:v1:servers"}
}

// SentinelACL is what a user needs on the sentinels themselves.
func SentinelACL() ACL {
	return ACL{
		Commands: []string{"sentinel|get-master-addr-by-name", "sentinel|sentinels", "ping", "subscribe"},
		Channels: []string{"+switch-master", "+replica-reconf-done"},
	}
}

package ledger

import "tollgate/policy/connect"

// ServerACL is what a server needs on Redis to write and to fold usage, beside what any connection
// does.
func ServerACL() connect.ACL {
	return connect.ACL{
		Commands: []string{
			"evalsha", "eval", "hmget", "hset", "pexpireat", "sadd", // add
			"get", "set", "del", "time", "smembers", "sscan", "exists", "hgetall", "hdel", // fold, remove, read
		},
		Keys: []string{prefix + "*"},
	}
}

// CLIACL is what commands need to read usage. They cannot change it.
func CLIACL() connect.ACL {
	return connect.ACL{
		Commands: []string{"exists", "sscan", "hgetall", "get", "smembers"},
		Keys:     []string{"%R~" + prefix + "*"},
	}
}

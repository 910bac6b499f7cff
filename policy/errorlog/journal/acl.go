package journal

import "tollgate/policy/connect"

// ServerACL is what a server needs on Redis to write the error log, beside what any connection does
// and reading keys.
func ServerACL() connect.ACL {
	return connect.ACL{
		Commands: []string{
			"evalsha", "eval", "time", "hmget", "hset", "lrange", "rpush", "lpop", "lindex", "pexpire", "zadd", "zrange", // append
			"hget", "zscore", "del", "zrem", "hdel", // give back
		},
		Keys: []string{prefix + "*"},
	}
}

// CLIACL is what commands need to read the error log. They cannot change it.
func CLIACL() connect.ACL {
	return connect.ACL{
		Commands: []string{"zrange", "lrange"},
		Keys:     []string{"%R~" + prefix + "*"},
	}
}

package outbox

import "tollgate/policy/connect"

// ServerACL is what a server needs on Redis to keep and to send messages, beside what any
// connection does.
func ServerACL() connect.ACL {
	return connect.ACL{
		Commands: []string{
			"evalsha", "eval", "time", "exists", "set", "zcard", "hset", "zrem", "zadd", // raise
			"get", "zrangebyscore", "hget", // take turns, claim
			"zscore", "hdel", "zrange", // settle
		},
		Keys: []string{prefix + "*"},
	}
}

// CLIACL is what commands need to show messages and to have them sent again.
func CLIACL() connect.ACL {
	return connect.ACL{
		Commands: []string{"zrange", "hmget", "hget", "evalsha", "eval", "time", "zscore", "zrem", "hset", "zadd"},
		Keys:     []string{messagesKey, dueKey, deadKey},
	}
}

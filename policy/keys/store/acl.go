package store

import "tollgate/policy/connect"

// RecordsACL is for finding a key, and for writing its record, its secret and what servers hear of
// the change.
func RecordsACL() connect.ACL {
	return connect.ACL{
		Commands: []string{
			"evalsha", "eval", // scripts; eval brings one that a server has not seen yet
			"get", "set", "del", "time", "publish", // publish sends the heartbeat as well
		},
		Keys:     []string{"tg:v1:key:*", "tg:v1:secret:*", "tg:v1:used:*", "tg:v1:apis", "tg:v1:index:*", "tg:v1:team:*"},
		Channels: []string{changesChannel},
	}
}

// ListsACL is for the lists of what is there: keys by API and team, and servers.
func ListsACL() connect.ACL {
	return connect.ACL{
		Commands: []string{"sadd", "zadd", "zrem", "hget", "hset", "hdel"},
		Keys:     []string{serversKey},
	}
}

// WalkACL is for listing the keys of an API.
func WalkACL() connect.ACL { return connect.ACL{Commands: []string{"zrangebylex"}} }

// FollowACL is for hearing of changes.
func FollowACL() connect.ACL {
	return connect.ACL{Commands: []string{"subscribe"}, Channels: []string{changesChannel}}
}

// ServersACL is for knowing which servers hear of changes, and for forgetting those that are gone.
func ServersACL() connect.ACL {
	return connect.ACL{Commands: []string{"hgetall"}, Keys: []string{serversKey}}
}

// ManageACL is for what the commands do beyond that.
func ManageACL() connect.ACL {
	return connect.ACL{
		Commands: []string{
			"smembers", "zrangebylex", "hgetall", // list keys, keep caps
			"wait", "info", "exists", // confirm a revocation
			"hsetnx", "hmget", "hlen", "hexists", "zrange", // teams and members
		},
		Keys: []string{teamIndexKey, "tg:v1:members:*", "tg:v1:member:*", replicasKey},
	}
}

// ClientsACL is for the list of clients of issuers.
func ClientsACL() connect.ACL { return connect.ACL{Keys: []string{"tg:v1:clients:*"}} }

// RepairACL is for repair, beyond ManageACL.
func RepairACL() connect.ACL { return connect.ACL{Commands: []string{"scan", "zscore", "hscan"}} }

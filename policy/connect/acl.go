package connect

import (
	"slices"
	"strings"
)

// An ACL is what a user of Redis needs for something: these commands, keys and channels. Each
// package that talks to Redis states its own; `tollgate store acl` joins them for a user.
type ACL struct {
	Commands []string // names as in ACL rules: get, cluster|slots
	Keys     []string // key patterns; %R~ before one allows to read alone
	Channels []string // pub/sub channel patterns
}

// Join returns all of these rights, each named once, in the order in which they come first.
func Join(acls ...ACL) (all ACL) {
	add := func(to *[]string, names []string) {
		for _, n := range names {
			if !slices.Contains(*to, n) {
				*to = append(*to, n)
			}
		}
	}
	for _, a := range acls {
		add(&all.Commands, a.Commands)
		add(&all.Keys, a.Keys)
		add(&all.Channels, a.Channels)
	}
	return all
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

// ConnectionACL is for any connection.
func ConnectionACL() ACL { return ACL{Commands: []string{"ping"}} }

// ClusterACL is for what only a cluster is asked.
func ClusterACL() ACL { return ACL{Commands: []string{"cluster|slots", "asking"}} }

// SentinelACL is what a user needs on the sentinels themselves.
func SentinelACL() ACL {
	return ACL{
		Commands: []string{"sentinel|get-master-addr-by-name", "sentinel|sentinels", "ping", "subscribe"},
		Channels: []string{"+switch-master", "+replica-reconf-done"},
	}
}

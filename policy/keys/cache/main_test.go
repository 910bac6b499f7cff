package cache

import (
	"testing"

	"go.uber.org/goleak"

	"tollgate/policy/connect"
	"tollgate/policy/keys/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// asServer is what a server may do with the records.
func asServer() connect.ACL {
	return connect.Join(store.RecordsACL(), store.ListsACL(), store.FollowACL(), store.ServersACL())
}

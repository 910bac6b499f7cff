package store

import (
	"testing"

	"go.uber.org/goleak"

	"tollgate/policy/connect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// asServer and asCommand are what a server and a command may do with the records here.
func asServer() connect.ACL {
	return connect.Join(RecordsACL(), ListsACL(), FollowACL(), ServersACL())
}

func asCommand() connect.ACL {
	return connect.Join(RecordsACL(), ListsACL(), ManageACL(), ClientsACL(), RepairACL())
}

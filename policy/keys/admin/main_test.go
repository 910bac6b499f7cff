package admin

import (
	"testing"

	"go.uber.org/goleak"

	"tollgate/policy/connect"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// asCommand is what the commands may do.
func asCommand() connect.ACL {
	return connect.Join(store.RecordsACL(), store.ListsACL(), store.ManageACL(), store.ClientsACL(), store.RepairACL(), audit.WriteACL(), audit.ReadACL())
}

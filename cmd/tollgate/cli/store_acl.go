package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/alerts/networks"
	"tollgate/policy/alerts/outbox"
	"tollgate/policy/connect"
	"tollgate/policy/errorlog/journal"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/standing"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits/counters"
	"tollgate/policy/manage/once"
	"tollgate/policy/usage/ledger"
)

// ACLs returns the rights of the users that tollgate store acl knows.
func ACLs() map[string]connect.ACL {
	return map[string]connect.ACL{
		"server":   connect.Join(serverACL(), ledger.ServerACL(), journal.ServerACL(), outbox.ServerACL(), networks.ServerACL()),
		"cli":      connect.Join(cliACL(), ledger.CLIACL(), journal.CLIACL(), outbox.CLIACL()),
		"manage":   manageACL(),
		"sentinel": connect.SentinelACL(),
	}
}

// newStoreCommand helps to set the store up.
func newStoreCommand() *cobra.Command {
	cmd := group("store", "What the store needs", "")
	cmd.AddCommand(&cobra.Command{
		Use:   "acl server|cli|manage|sentinel",
		Short: "Print the rules of a Redis user that may do only what this needs",
		Long: `Print the rules of a Redis user, for ACL SETUSER or users.acl, that may do only what
tollgate serve (server), the commands that manage keys (cli) or tollgate manage (manage)
need, or each of them on the sentinels. Add "on" and a password.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			acl, ok := ACLs()[args[0]]
			if !ok {
				return fmt.Errorf("store acl: %q is not server, cli, manage or sentinel", args[0])
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(acl.Rules(), " "))
			return exit.Failed(err)
		},
	}, newAcceptEmpty())
	return cmd
}

// keysACL is for finding, adding and changing keys, on any Redis, cluster nodes included.
func keysACL() connect.ACL {
	return connect.Join(connect.ConnectionACL(), store.RecordsACL(), audit.WriteACL(), standing.ACL(), store.ListsACL(), connect.ClusterACL())
}

// serverACL is what `tollgate serve` needs: to find and count, to add the keys of its keys file, to
// rehash one, both with a word in the audit stream, to note its use, and to look through all keys.
func serverACL() connect.ACL {
	return connect.Join(keysACL(), counters.ACL(), store.FollowACL(), standing.EvictionACL(), store.ServersACL(), store.WalkACL())
}

// cliACL is what the commands that manage keys, teams, members and limits need. It cannot take a
// slot, nor begin a counter.
func cliACL() connect.ACL {
	return connect.Join(keysACL(), store.ManageACL(), store.ClientsACL(), audit.ReadACL(), store.RepairACL(), counters.ResetACL())
}

// manageACL is what `tollgate manage` needs: what members may do with keys. It can neither count,
// nor read the audit stream, nor repair.
func manageACL() connect.ACL {
	return connect.Join(connect.ConnectionACL(), connect.ClusterACL(), store.RecordsACL(), store.ListsACL(), store.ManageACL(), audit.WriteACL(), standing.PepperACL(), once.ACL())
}

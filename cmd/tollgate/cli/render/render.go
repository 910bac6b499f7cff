// Package render is `tollgate policy render`: what a proxy's configuration has to hold because a
// policy says so.
package render

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/exit"
	"tollgate/policy"
	"tollgate/policy/oauth"
	"tollgate/policy/policyfile"
)

// Command returns the command.
func Command() *cobra.Command {
	return &cobra.Command{
		Use:   "render FILE|DIR",
		Short: "Print what Envoy has to answer itself, as routes for its configuration",
		Long: `Print what Envoy has to answer itself, as routes for its configuration: of each API that
says resource, the metadata by which clients of OAuth 2.0 find its issuers (RFC 9728).
Put each before the other routes of its virtual host. Tollgate cannot answer these
requests, because a denial is never a 200.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := policyfile.Load(args[0])
			if err != nil {
				return exit.Failed(err)
			}
			found := false
			for _, api := range set.APIs() {
				if api.Metadata() == nil {
					continue
				}
				found = true
				if err := route(cmd.OutOrStdout(), api); err != nil {
					return exit.Failed(err)
				}
			}
			if !found {
				return exit.Failed(fmt.Errorf("%s: no API of it says resource, so Envoy has nothing to answer itself", args[0]))
			}
			return nil
		},
	}
}

// route prints the route of an API's metadata. A JSON text is one of YAML, too.
func route(w io.Writer, api *policy.API) error {
	document, err := api.Metadata().Document()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, `# %s
- match: {path: %q}
  direct_response:
    status: 200
    body: {inline_string: %q}
  response_headers_to_add:
  - {header: {key: content-type, value: application/json}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
  typed_per_filter_config:
    envoy.filters.http.ext_authz:
      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
      disabled: true
`, api.Name(), oauth.MetadataPath(api.Metadata().Resource), document)
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"tollgate/policy/keys"
	"tollgate/policy/keys/transfer"
)

// source is a file with keys and what is said about it on the command line.
type source struct {
	format   string
	labels   map[string]string
	groups   map[string]string
	drop     []string
	defaults keys.Defaults

	kind    transfer.Format
	summary transfer.Summary
	options transfer.Options
	file    *os.File
}

func (s *source) flags(f *pflag.FlagSet) {
	f.StringVar(&s.format, "format", "", "yaml, jsonl, csv, authorino, envoy-gateway or kong; default: by the end of the file's name")
	f.StringVar(&s.defaults.API, "api", "", "API of the keys, where the file does not say")
	f.StringVar(&s.defaults.Team, "team", "", "team of the keys, where the file does not say")
	f.StringVar(&s.defaults.Environment, "env", "", "environment of the keys, where the file does not say")
	f.StringVar(&s.defaults.Plan, "plan", "", "plan of the keys, where the file does not say")
	f.StringSliceVar(&s.defaults.Scopes, "scopes", nil, "scopes of the keys, where the file does not say")
	f.StringToStringVar(&s.labels, "label", nil, "FIELD=LABEL: which label or annotation of Authorino's Secrets holds team, plan, environment, scopes, name or note")
	f.StringToStringVar(&s.groups, "group", nil, "GROUP=SCOPE: which scopes, joined with |, an ACL group of Kong's stands for; a key in another group is refused")
	f.StringSliceVar(&s.drop, "drop-plugin", nil, "plugins of Kong's that keys lose, because the policy does what they did; joined with commas. Without it a key is refused that one narrows in a way that no key of ours can be")
}

// open reads the file once, to know its size and hash, and goes back to its
// start.
func (s *source) open(path string) (err error) {
	if s.kind, err = s.guess(path); err != nil {
		return err
	}
	if s.file, err = os.Open(path); err != nil {
		return err
	}
	info, err := s.file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file that can be read twice", path)
	}
	if err == nil {
		s.options = transfer.Options{AsOf: info.ModTime(), Labels: s.labels, Groups: s.groups, Drop: s.drop, API: s.defaults.API}
		s.summary, err = transfer.Survey(s.kind, s.file)
	}
	if err == nil {
		_, err = s.file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return errors.Join(err, s.file.Close())
	}
	return nil
}

// holdsKeys reports whether the file has a record, be it a broken one, and goes
// back to its start.
func (s *source) holdsKeys() (some bool, err error) {
	for _, err := range transfer.Read(s.kind, s.file, s.options) {
		var ignored *keys.IgnoredError
		if !errors.As(err, &ignored) {
			some = true
			break
		}
	}
	_, err = s.file.Seek(0, io.SeekStart)
	return some, err
}

func emptyFile(prune bool) error {
	if prune {
		return errors.New("apply: the file names no key; with --prune it would delete all of them")
	}
	return errors.New("apply: the file names no key")
}

func (s *source) guess(path string) (transfer.Format, error) {
	if s.format != "" {
		f, err := transfer.ParseFormat(s.format)
		if err != nil {
			return "", fmt.Errorf("--format: %q is not one of %v", s.format, transfer.Formats())
		}
		return f, nil
	}
	if f, ok := transfer.FormatOf(path); ok {
		return f, nil
	}
	return "", fmt.Errorf("%s: its name does not say what it holds: give --format", path)
}

func newImport(a *access) *cobra.Command {
	s, refused, progress := &source{}, "", false
	cmd := &cobra.Command{
		Use:   "import FILE [flags]",
		Short: "Take over keys from a file; keys that are there stay as they are",
		Long: `Take over keys from a file: the keys file (yaml), JSON Lines, CSV, Kubernetes Secrets
of Authorino or Envoy Gateway, or Kong's declarative configuration. Plain secrets are
hashed at once. What cannot be taken is refused by itself, with a reason; the same
import again goes on where it was interrupted. What narrows a key elsewhere in the
file (Kong's plugins and ACL groups, AuthConfigs, SecurityPolicies) becomes the key's
own restriction or refuses the key. Exits with 1 if a record was refused, or if the
file holds no key.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.open(args[0]); err != nil {
				return err
			}
			defer s.file.Close()
			return a.run(cmd, storeAndPolicy|thePepper, func(ctx context.Context) error {
				return a.importKeys(ctx, cmd, s, refused, progress)
			})
		},
	}
	cmd.Flags().SortFlags = false
	s.flags(cmd.Flags())
	cmd.Flags().StringVar(&refused, "refused", "", "file that gets a line of JSON for each refused record")
	cmd.Flags().BoolVar(&progress, "progress", false, "show progress, also where the output is no terminal")
	return cmd
}

func (a *access) importKeys(ctx context.Context, cmd *cobra.Command, s *source, refused string, progress bool) (err error) {
	o := keys.ImportOptions{Defaults: s.defaults, Source: s.file.Name(), SHA256: s.summary.SHA256, Total: s.summary.Records}
	if refused != "" {
		f, err := os.OpenFile(refused, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return fmt.Errorf("--refused: %w", err)
		}
		defer func() { err = errors.Join(err, failed(f.Close())) }()
		o.Refused = f
	}
	if bar := newBar(cmd.ErrOrStderr(), progress); bar != nil {
		o.Progress = bar.show
		defer bar.end()
	}
	report, err := a.manager.Import(ctx, transfer.Read(s.kind, s.file, s.options), o)
	if err == nil && report.Read == 0 {
		err = fmt.Errorf("%s holds no key as the format %s has them", s.file.Name(), s.kind)
	}
	return errors.Join(explained(err), failed(a.printImport(cmd, report, refused)), refusals(report.Refused))
}

func refusals(n int) error {
	if n == 0 {
		return nil
	}
	return failed(errors.New(count(n, "record") + " refused"))
}

func (a *access) printImport(cmd *cobra.Command, r keys.ImportReport, refused string) error {
	if a.output != outputTable {
		return a.output.printRecord(cmd.OutOrStdout(), r)
	}
	for _, f := range r.First {
		cmd.PrintErrf("line %d: %s\n", f.Line, strings.TrimSpace(f.ID+" "+f.Reason))
	}
	for _, f := range r.FirstIgnored {
		cmd.PrintErrf("line %d: ignored: %s\n", f.Line, f.Reason)
	}
	if more := r.Refused - len(r.First); more > 0 {
		where := "; give --refused FILE to have them all"
		if refused != "" {
			where = ", all in " + refused
		}
		cmd.PrintErrf("and %d more%s\n", more, where)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), r)
	return err
}

// bar shows how far an import is.
type bar struct {
	w        io.Writer
	terminal bool
	next     time.Time // of the next line, where the output is no terminal
}

const (
	barWidth = 30
	barPause = 2 * time.Second // between lines
)

func newBar(w io.Writer, always bool) *bar {
	file, ok := w.(*os.File)
	terminal := ok && term.IsTerminal(int(file.Fd()))
	if !terminal && !always {
		return nil
	}
	return &bar{w: w, terminal: terminal}
}

func (b *bar) show(p keys.Progress) {
	line := fmt.Sprintf("%d records, %.0f/s", p.Done, p.Rate)
	if p.Total > 0 {
		full := min(barWidth, barWidth*p.Done/p.Total)
		line = fmt.Sprintf("[%s%s] %d %% of %d, %.0f/s, %s left", strings.Repeat("#", full), strings.Repeat(".", barWidth-full),
			100*p.Done/p.Total, p.Total, p.Rate, p.ETA.Round(time.Second))
	}
	if b.terminal {
		_, _ = fmt.Fprintf(b.w, "\r\x1b[K%s", line)
		return
	}
	if now := time.Now(); !now.Before(b.next) || p.Done >= p.Total {
		b.next = now.Add(barPause)
		_, _ = fmt.Fprintln(b.w, line)
	}
}

func (b *bar) end() {
	if b.terminal {
		_, _ = fmt.Fprintln(b.w)
	}
}

func newExport(a *access) *cobra.Command {
	l, form := &filterFlags{}, ""
	cmd := &cobra.Command{
		Use:   "export [flags]",
		Short: "Print keys with their hashes, as import and apply read them",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := l.filter(time.Now())
			if err != nil {
				return err
			}
			if form != string(keys.ExportYAML) && form != string(keys.ExportJSONLines) {
				return fmt.Errorf("--format: %q is not yaml or jsonl", form)
			}
			return a.run(cmd, storeOnly, func(ctx context.Context) error {
				n, err := a.manager.Export(ctx, cmd.OutOrStdout(), keys.ExportFormat(form), filter)
				if err == nil {
					return a.knownNames(filter, n)
				}
				return explained(err)
			})
		},
	}
	cmd.Flags().SortFlags = false
	l.add(cmd.Flags())
	cmd.Flags().StringVar(&form, "format", string(keys.ExportYAML), "yaml or jsonl")
	return cmd
}

func newApply(a *access) *cobra.Command {
	s, path, o := &source{}, "", keys.ApplyOptions{}
	cmd := &cobra.Command{
		Use:   "apply -f FILE [--dry-run] [--prune [--all-teams]]",
		Short: "Make the keys of an API or team what a file says",
		Long: `Make the keys of an API or team what a file says: create what is missing, change what
differs and, with --prune, revoke and delete what the file does not name. Only the
teams that the file has keys of are touched, and the one that --api and --team name;
--api API --all-teams means every team of the API. Run again, it changes nothing. A
key that is revoked, deleted or corrupt in the store is left out and named; the
others are changed, and the exit code is 1.`,
		Args: noKeysFile,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return errors.New("apply: which file? give -f FILE")
			}
			if err := s.open(path); err != nil {
				return err
			}
			defer s.file.Close()
			o.Defaults = s.defaults
			if o.AllTeams && (o.API == "" || o.Team != "") {
				return errors.New("apply: --all-teams needs --api, and no --team")
			}
			if some, err := s.holdsKeys(); err != nil || !some {
				return errors.Join(err, emptyFile(o.Prune))
			}
			return a.run(cmd, storeAndPolicy|thePepper, func(ctx context.Context) error {
				diff, err := a.manager.Apply(ctx, transfer.Read(s.kind, s.file, s.options), o)
				return errors.Join(explained(err), failed(a.printDiff(cmd, diff)))
			})
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVarP(&path, "file", "f", "", "file with the keys")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "only show what would be done")
	a.confirm.add(cmd.Flags())
	cmd.Flags().BoolVar(&o.AllTeams, "all-teams", false, "the file speaks for every team of --api, also those it has no key of")
	cmd.Flags().BoolVar(&o.Prune, "prune", false, "revoke and delete keys that the file does not name")
	s.flags(cmd.Flags())
	return cmd
}

// noKeysFile is noArguments with a word about the flag.
func noKeysFile(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s: takes flags only; did you mean -f FILE?", cmd.CommandPath())
	}
	return nil
}

func (a *access) printDiff(cmd *cobra.Command, d *keys.Diff) error {
	if d == nil {
		return nil
	}
	if a.output != outputTable {
		return a.output.printRecord(cmd.OutOrStdout(), d)
	}
	_, err := fmt.Fprint(cmd.OutOrStdout(), d)
	return err
}

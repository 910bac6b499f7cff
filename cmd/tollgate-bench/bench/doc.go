// Package bench measures what a decision of Tollgate costs, on the machine it runs
// on, beside a server that decides nothing (tollgate/extauthz/yardstick), and compares
// the ratios with the project's targets.
//
// Everything measured is a process of its own: `tollgate serve` as anyone runs it,
// the yardstick, a real Redis for each server, and the load (package load). All run
// at once; each case is measured in turn with the yardstick, round after round, so
// that other work on the machine affects both alike. Only ratios within one round are
// compared.
package bench

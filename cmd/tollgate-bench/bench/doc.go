// Package bench measures what a decision of Tollgate costs, on the machine it runs
// on, beside a server that decides nothing (tollgate/extauthz/yardstick), and judges
// the ratios by the lines that the project has set itself.
//
// Everything measured is a process of its own: `tollgate serve` as anyone runs it,
// the yardstick, a real Redis for each server, and the load (package load). All run
// at once; each case is measured in turn with the yardstick, round after round, so
// that what else the machine does meets both alike. Only ratios within one round are
// compared.
package bench

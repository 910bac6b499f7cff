// Package load makes the load of a benchmark and measures it from the client's
// side: who sends which request when, how long the answer took, and what it said.
//
// It runs as a process of its own (`tollgate-bench load`), so that what it spends
// is never counted for the server. It reads one Job a line and writes one Result a
// line; connections stay open between jobs.
package load

package bench

import "tollgate/policy/keys"

// placeholder is the secret in the recorded requests; the load puts others in its
// place.
func placeholder() string { return keys.Seal(prefix, "RecordedForTheBenchmark0000") }

// clientRequest is the request that the load is made of: what an API client sends
// with a tracing library. With the pseudo-headers and what Envoy adds (x-request-id,
// x-forwarded-for, x-forwarded-proto, x-envoy-external-address) a check that has all
// of its headers has 15.
func clientRequest() string {
	return "GET /v1/jobs/5f0c2a7be94d4c2f?expand=steps&limit=50 HTTP/1.1\r\n" +
		"Host: bench.example.com\r\n" +
		"Authorization: Bearer " + placeholder() + "\r\n" +
		"Accept: application/json\r\n" +
		"Accept-Encoding: gzip, deflate, br\r\n" +
		"Content-Type: application/json\r\n" +
		"User-Agent: example-client/4.11.2 (linux; amd64) go/1.26\r\n" +
		"Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n" +
		"Idempotency-Key: 7d6f4c1e-6f5b-4a55-9a2e-2d0f5c1b7c11\r\n" +
		"\r\n"
}

package bench

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// logEntry is an entry of Envoy's access log about a request that has ended, but for the metadata
// of its decision: what an Envoy with the shipped bootstrap sends.
func logEntry() ([]byte, error) {
	address := func(host string, port uint32) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}}}
	}
	after := func(micros int) *durationpb.Duration { return durationpb.New(time.Duration(micros) * time.Microsecond) }
	return proto.MarshalOptions{Deterministic: true}.Marshal(&datav3.HTTPAccessLogEntry{
		CommonProperties: &datav3.AccessLogCommon{
			DownstreamRemoteAddress: address("198.51.100.7", 52144), DownstreamLocalAddress: address("192.0.2.2", 10000),
			DownstreamDirectRemoteAddress: address("198.51.100.7", 52144), UpstreamRemoteAddress: address("192.0.2.9", 8080), UpstreamLocalAddress: address("192.0.2.2", 41888),
			StartTime: timestamppb.New(time.Date(2026, 11, 23, 12, 0, 0, 123456000, time.UTC)), TimeToLastRxByte: after(90), TimeToFirstUpstreamTxByte: after(610),
			TimeToLastUpstreamTxByte: after(640), TimeToFirstUpstreamRxByte: after(1900), TimeToLastUpstreamRxByte: after(2100), TimeToFirstDownstreamTxByte: after(1950),
			TimeToLastDownstreamTxByte: after(2130), Duration: after(2200), UpstreamCluster: "upstream", UpstreamRequestAttemptCount: 1,
			StreamId: "5f0a3a51-7d2d-4d6a-9a3c-1f8f1d6c0b7e", DownstreamWireBytesSent: 420, DownstreamWireBytesReceived: 310, UpstreamWireBytesSent: 420, UpstreamWireBytesReceived: 380,
			AccessLogType: datav3.AccessLogType_DownstreamEnd, ResponseFlags: &datav3.ResponseFlags{},
		},
		ProtocolVersion: datav3.HTTPAccessLogEntry_HTTP11,
		Request: &datav3.HTTPRequestProperties{
			RequestMethod: corev3.RequestMethod_GET, Scheme: "https", Authority: "bench.example.com", Path: "/v1/jobs/job_01HZX3", UserAgent: "curl/8.5.0",
			RequestId: "5f0a3a51-7d2d-4d6a-9a3c-1f8f1d6c0b7e", RequestHeadersBytes: 310,
		},
		Response: &datav3.HTTPResponseProperties{
			ResponseCode: wrapperspb.UInt32(200), ResponseHeadersBytes: 180, ResponseBodyBytes: 240, ResponseCodeDetails: "via_upstream",
		},
	})
}

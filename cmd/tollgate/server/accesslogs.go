package server

import (
	"encoding/json"
	"net/http"
	"time"

	"tollgate/extauthz"
	"tollgate/extauthz/grpcserver"
)

// accessLogs answers /access-logs, which tollgate doctor reads.
func (s *Status) accessLogs(w http.ResponseWriter, _ *http.Request) {
	text, err := json.Marshal(s.Logs())
	if err != nil {
		http.Error(w, "the report cannot be written", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(text, '\n'))
}

// logReport is what is known of access logs.
func (v *service) logReport() *extauthz.LogReport {
	return &extauthz.LogReport{
		Time: time.Now().UTC(), LogName: grpcserver.AccessLogName, Decisions: v.metrics.Decisions(),
		APIs: v.authorizer.LoggedAPIs(), Logs: v.grpc.AccessLogs(), Slots: v.slotTroubles(),
	}
}

// slotTroubles returns what is wrong with how requests under way are followed.
func (v *service) slotTroubles() []extauthz.SlotTrouble {
	return v.rights.slotTroubles(v.authorizer.SlotTroubles())
}

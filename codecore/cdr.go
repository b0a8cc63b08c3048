package codecore

import "time"

// CDR is the record of one call for billing, written exactly once under its ID.
// Field names are stored and exported: never rename.
type CDR struct {
	ID       string    `json:"id"` // the call's id
	From     string    `json:"from"`
	To       string    `json:"to"` // number dialled
	FromPeer string    `json:"from_peer"`
	ToPeer   string    `json:"to_peer,omitempty"`
	Start    time.Time `json:"start"` // edge receive time of the INVITE
	Answer   time.Time `json:"answer,omitzero"`
	End      time.Time `json:"end,omitzero"`
	Seconds  float64   `json:"seconds"`              // answered time
	Result   string    `json:"result"`               // answered, busy, cancelled, no-answer, failed, set-aside
	Code     int       `json:"code"`                 // final SIP status to the caller
	HungUpBy string    `json:"hung_up_by,omitempty"` // a, b, switch
	Cause    string    `json:"cause,omitempty"`      // stable reason code when the switch decided

	// Of the last transfer; the times above are the whole call's.
	TransferredTo string    `json:"transferred_to,omitempty"` // number
	TransferredBy string    `json:"transferred_by,omitempty"` // peer that left
	Transferred   time.Time `json:"transferred,omitzero"`     // when the target answered
}

// transferred reports whether the record tells of a transfer, which v0.1.0 would
// not write on.
func (d *CDR) transferred() bool {
	return d.TransferredTo != "" || d.TransferredBy != "" || !d.Transferred.IsZero()
}

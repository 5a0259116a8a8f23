package protocol

// PollRequest asks for notices of a stream (RFC 8936 section 2.2): POST
// /ssf/poll/{stream}.
type PollRequest struct {
	Most        *int                 `json:"maxEvents,omitempty"`
	Immediately bool                 `json:"returnImmediately,omitempty"` // else the answer waits for something
	Ack         []string             `json:"ack,omitempty"`               // jti of those that the receiver has
	Errors      map[string]PollError `json:"setErrs,omitempty"`           // by jti: those that it cannot take
}

// PollError says why a receiver cannot take a notice.
type PollError struct {
	Code        string `json:"err"`
	Description string `json:"description"`
}

// Polled answers a PollRequest: signed security event tokens by their jti.
type Polled struct {
	Sets map[string]string `json:"sets"`
	More bool              `json:"moreAvailable"`
}

// VerifyStream asks for a verification event: POST /ssf/verify.
type VerifyStream struct {
	ID    string `json:"stream_id"`
	State string `json:"state,omitempty"`
}

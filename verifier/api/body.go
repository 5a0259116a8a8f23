package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier/protocol"
)

const (
	mediaJSON     = "application/json"
	mediaText     = "text/plain; charset=utf-8"
	mediaBytes    = "application/octet-stream"
	mediaEvents   = "text/event-stream"
	mediaEvidence = evidence.MediaType

	mediaStatusList = "application/statuslist+jwt"
)

// mediaType refuses any but the wanted type. Of parameters only those that
// change nothing are taken: the collection's own type, and UTF-8.
func mediaType(sent []string, want string) error {
	bad := &httpError{status: http.StatusUnsupportedMediaType, code: codeMediaType, detail: "expected Content-Type: " + want}
	if len(sent) != 1 {
		return bad
	}
	media, params, err := mime.ParseMediaType(sent[0])
	if err != nil || media != want {
		return bad
	}
	for name, value := range params {
		switch {
		case want == mediaEvidence && name == "cmwc_t" && value == evidence.CollectionType:
		case (want == mediaJSON || want == mediaForm) && name == "charset" && strings.EqualFold(value, "utf-8"):
		default:
			bad.detail += fmt.Sprintf(", not with parameter %.40s=%.100q", name, value)
			return bad
		}
	}
	return nil
}

func tooLarge(limit int64) error {
	return &httpError{status: http.StatusRequestEntityTooLarge, code: codeTooLarge, detail: fmt.Sprintf("at most %d bytes are taken", limit)}
}

// readBody reads a body within the route's limit. give returns the memory, once
// the body is no longer needed.
func (s *Server) readBody(q *call) (give func(), err error) {
	r := q.Request()
	if q.route.in == "" {
		if r.ContentLength != 0 {
			return nil, tooLarge(0)
		}
		return func() {}, nil
	}
	size := r.ContentLength
	if size < 0 {
		size = q.route.max // not said: as much as it may be
	}
	if give, err = s.bodies.take(q.peer, size); err != nil {
		return nil, err
	}
	buf := bytes.NewBuffer(make([]byte, 0, max(r.ContentLength, 0)+bytes.MinRead))
	if _, err := buf.ReadFrom(http.MaxBytesReader(q.Response(), r.Body, q.route.max)); err != nil {
		give()
		if over := (*http.MaxBytesError)(nil); errors.As(err, &over) {
			return nil, tooLarge(q.route.max)
		}
		return nil, malformed("reading the body: it ended early or came too slowly")
	}
	q.body = buf.Bytes()
	return give, nil
}

func malformed(format string, args ...any) error {
	return &httpError{status: http.StatusBadRequest, code: codeMalformed, detail: fmt.Sprintf(format, args...)}
}

// decode reads the body as one JSON value of a known shape: unknown members,
// members given twice and anything after the value are refused.
func (q *call) decode(v any) error {
	if !utf8.Valid(q.body) {
		return malformed("reading the JSON: it is not UTF-8")
	}
	if err := unique(json.NewDecoder(bytes.NewReader(q.body)), 0); err != nil {
		return malformed("reading the JSON: %v", err)
	}
	d := json.NewDecoder(bytes.NewReader(q.body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return malformed("reading the JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); err != io.EOF {
		return malformed("reading the JSON: something follows the value")
	}
	return nil
}

const maxDepth = 32

// unique reads one JSON value and refuses objects with a member twice. Names
// that differ in case alone are one name to encoding/json.
func unique(d *json.Decoder, depth int) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	if t != json.Delim('{') && t != json.Delim('[') {
		return nil
	}
	if depth >= maxDepth {
		return fmt.Errorf("more than %d levels", maxDepth)
	}
	seen := map[string]bool{}
	for d.More() {
		if t == json.Delim('{') {
			name, err := d.Token()
			if err != nil {
				return err
			}
			folded := strings.ToLower(strings.ToUpper(name.(string))) // a name is a string, or Token errs
			if seen[folded] {
				return fmt.Errorf("member %.40q is given twice", name)
			}
			seen[folded] = true
		}
		if err := unique(d, depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// answer writes v as JSON.
func (q *call) answer(v any) error {
	if out, ok := v.(*protocol.Outcome); ok { // of every renewal
		return q.Blob(http.StatusOK, mediaJSON, out.AppendJSON(make([]byte, 0, 1<<13)))
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return q.Blob(http.StatusOK, mediaJSON, b)
}

// Package workload serves the SPIFFE Workload API to the processes of a node: SVIDs
// that a domain's verifier gives for the node's token, and that end with it.
//
// Who a process is, the kernel says (SO_PEERCRED), and which identity that is, a map:
// what no entry of it matches gets nothing. The caller's process is looked at with each
// call. That it is still the one that connected is as certain as its process id: a
// program that hands its connection to another hands on its identity.
package workload

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	api "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/writ-attestation/writ/verifier/protocol"
)

// Source is where SVIDs come from: the agent.
type Source interface {
	Bearer(ctx context.Context, audience, workload string) (*protocol.Exchanged, error)
	SVID(ctx context.Context, req protocol.SVIDRequest) (*protocol.SVID, error)
	SPIFFEBundle(ctx context.Context) ([]byte, error)
}

// Config is what a Server needs.
type Config struct {
	Domain string // trust domain
	Node   string // path of the node's own SPIFFE ID, "node/<id>"
	Map    Map
	Source Source
	Log    *slog.Logger
}

// Server answers workloads.
type Server struct {
	api.UnimplementedSpiffeWorkloadAPIServer
	cfg    Config
	domain spiffeid.TrustDomain
}

// New returns a server for a map that holds.
func New(cfg Config) (*Server, error) {
	td, err := spiffeid.TrustDomainFromString(cfg.Domain)
	if err != nil {
		return nil, err
	}
	if cfg.Source == nil || cfg.Log == nil || cfg.Node == "" {
		return nil, errors.New("serving workloads: a source, a logger and the node's path are needed")
	}
	return &Server{cfg: cfg, domain: td}, cfg.Map.check()
}

// Serve answers on l, a unix socket, until ctx is done.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := grpc.NewServer(grpc.Creds(peerCredentials{}), grpc.MaxRecvMsgSize(64<<10), grpc.MaxConcurrentStreams(16), grpc.ConnectionTimeout(5*time.Second))
	api.RegisterSpiffeWorkloadAPIServer(srv, s)
	defer context.AfterFunc(ctx, srv.Stop)()
	return srv.Serve(l)
}

const (
	refreshBundle = time.Minute
	atLeast       = time.Second // between two X509-SVIDs of one stream
)

// caller is the entries of the map that match whoever calls.
func (s *Server) caller(ctx context.Context) ([]Entry, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("workload.spiffe.io"); len(v) != 1 || v[0] != "true" { // SPIFFE Workload Endpoint section 5.1
		return nil, status.Error(codes.InvalidArgument, "the metadata workload.spiffe.io: true is missing")
	}
	who, err := callerOf(ctx)
	if err != nil {
		return nil, status.Errorf(codes.PermissionDenied, "no identity is issued: %v", err)
	}
	found, err := s.cfg.Map.of(who)
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "looking at a workload", "uid", who.uid, "pid", who.pid, "error", err)
	}
	if len(found) == 0 {
		return nil, status.Error(codes.PermissionDenied, "no identity issued")
	}
	return found, nil
}

// id is the SPIFFE ID of an entry, and the path by which the verifier knows it.
func (s *Server) id(e *Entry) (id, path string) {
	if e.ID == "" {
		return "spiffe://" + s.cfg.Domain + "/" + s.cfg.Node, ""
	}
	return "spiffe://" + s.cfg.Domain + "/" + e.ID, e.ID
}

// failed is the answer where the agent has none: a refusal is final, all else is not.
func failed(err error) error {
	if r := (*protocol.Refusal)(nil); errors.As(err, &r) {
		return status.Error(codes.PermissionDenied, r.Error())
	}
	return status.Error(codes.Unavailable, err.Error())
}

func (s *Server) bundle(ctx context.Context) (*spiffebundle.Bundle, error) {
	raw, err := s.cfg.Source.SPIFFEBundle(ctx)
	if err != nil {
		return nil, failed(err)
	}
	b, err := spiffebundle.Parse(s.domain, raw)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "reading the bundle: %v", err)
	}
	return b, nil
}

func authorities(b *spiffebundle.Bundle) (der []byte) {
	for _, c := range b.X509Authorities() {
		der = append(der, c.Raw...)
	}
	return der
}

// FetchX509SVID streams X509-SVIDs, each a new key, and the next at a third of its life.
// It ends when the node gets none any more: the last one ends by itself.
func (s *Server) FetchX509SVID(_ *api.X509SVIDRequest, stream grpc.ServerStreamingServer[api.X509SVIDResponse]) error {
	ctx := stream.Context()
	for {
		entries, err := s.caller(ctx)
		if err != nil {
			return err
		}
		b, err := s.bundle(ctx)
		if err != nil {
			return err
		}
		out, next := new(api.X509SVIDResponse), time.Hour
		for i := range entries {
			svid, until, err := s.x509SVID(ctx, &entries[i])
			if err != nil {
				return err
			}
			svid.Bundle = authorities(b)
			out.Svids, next = append(out.Svids, svid), min(next, time.Until(until)/3)
		}
		if err := stream.Send(out); err != nil {
			return err
		}
		if err := pause(ctx, max(next, atLeast)); err != nil {
			return err
		}
	}
}

func (s *Server) x509SVID(ctx context.Context, e *Entry) (*api.X509SVID, time.Time, error) {
	id, path := s.id(e)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	var public, private []byte
	if err == nil {
		public, err = x509.MarshalPKIXPublicKey(key.Public())
	}
	if err == nil {
		private, err = x509.MarshalPKCS8PrivateKey(key)
	}
	if err != nil {
		return nil, time.Time{}, status.Errorf(codes.Internal, "making a key: %v", err)
	}
	got, err := s.cfg.Source.SVID(ctx, protocol.SVIDRequest{Workload: path, Key: public})
	if err != nil {
		return nil, time.Time{}, failed(err)
	}
	if got.ID != id {
		return nil, time.Time{}, status.Errorf(codes.Internal, "the verifier answers for %.200q", got.ID)
	}
	return &api.X509SVID{SpiffeId: id, X509Svid: got.Certificate, X509SvidKey: private}, time.Unix(got.Expires, 0), nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-timer.C:
		return nil
	}
}

// FetchX509Bundles streams the authorities of X509-SVIDs.
func (s *Server) FetchX509Bundles(_ *api.X509BundlesRequest, stream grpc.ServerStreamingServer[api.X509BundlesResponse]) error {
	return s.bundles(stream.Context(), func(b *spiffebundle.Bundle) error {
		return stream.Send(&api.X509BundlesResponse{Bundles: map[string][]byte{s.domain.IDString(): authorities(b)}})
	})
}

// FetchJWTBundles streams the keys of JWT-SVIDs.
func (s *Server) FetchJWTBundles(_ *api.JWTBundlesRequest, stream grpc.ServerStreamingServer[api.JWTBundlesResponse]) error {
	return s.bundles(stream.Context(), func(b *spiffebundle.Bundle) error {
		raw, err := b.JWTBundle().Marshal()
		if err != nil {
			return status.Errorf(codes.Internal, "writing the bundle: %v", err)
		}
		return stream.Send(&api.JWTBundlesResponse{Bundles: map[string][]byte{s.domain.IDString(): raw}})
	})
}

// bundles sends a bundle, and each that differs from the one before.
func (s *Server) bundles(ctx context.Context, send func(*spiffebundle.Bundle) error) error {
	var last *spiffebundle.Bundle
	for {
		if _, err := s.caller(ctx); err != nil {
			return err
		}
		b, err := s.bundle(ctx)
		switch {
		case err != nil && last == nil:
			return err
		case err == nil && !b.Equal(last):
			if err := send(b); err != nil {
				return err
			}
			last = b
		}
		if err := pause(ctx, refreshBundle); err != nil {
			return err
		}
	}
}

// FetchJWTSVID gives JWT-SVIDs for one audience, which both the map and the domain must
// list for the caller.
func (s *Server) FetchJWTSVID(ctx context.Context, req *api.JWTSVIDRequest) (*api.JWTSVIDResponse, error) {
	entries, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	if len(req.Audience) != 1 {
		return nil, status.Error(codes.InvalidArgument, "exactly one audience is needed: a JWT-SVID is for one alone")
	}
	out := new(api.JWTSVIDResponse)
	for i := range entries {
		id, path := s.id(&entries[i])
		if req.SpiffeId != "" && req.SpiffeId != id || !entries[i].serves(req.Audience[0]) {
			continue
		}
		got, err := s.cfg.Source.Bearer(ctx, req.Audience[0], path)
		if err != nil {
			return nil, failed(err)
		}
		out.Svids = append(out.Svids, &api.JWTSVID{SpiffeId: id, Svid: got.Token})
	}
	if len(out.Svids) == 0 {
		return nil, status.Error(codes.PermissionDenied, "no identity issued for this audience")
	}
	return out, nil
}

// ValidateJWTSVID checks a JWT-SVID of the domain for an audience.
func (s *Server) ValidateJWTSVID(ctx context.Context, req *api.ValidateJWTSVIDRequest) (*api.ValidateJWTSVIDResponse, error) {
	if _, err := s.caller(ctx); err != nil {
		return nil, err
	}
	if req.Audience == "" || req.Svid == "" {
		return nil, status.Error(codes.InvalidArgument, "an audience and a JWT-SVID are needed")
	}
	b, err := s.bundle(ctx)
	if err != nil {
		return nil, err
	}
	svid, err := jwtsvid.ParseAndValidate(req.Svid, b, []string{req.Audience})
	if err == nil && !time.Now().Before(svid.Expiry) { // the library allows a minute more
		err = errors.New("it has expired")
	}
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%s", strings.TrimPrefix(err.Error(), "jwtsvid: "))
	}
	claims, err := structpb.NewStruct(svid.Claims)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "writing the claims: %v", err)
	}
	return &api.ValidateJWTSVIDResponse{SpiffeId: svid.ID.String(), Claims: claims}, nil
}

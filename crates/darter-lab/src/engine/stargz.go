package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/containerd/stargz-snapshotter/service/resolver"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
)

// Serves snapshots: ROOT SOCKET REGISTRY-NAME ADDRESS:PORT.
func serve(root, socket, name, address string) error {
	config := &service.Config{ResolverConfig: service.ResolverConfig{Host: map[string]resolver.HostConfig{
		name: {Mirrors: []resolver.MirrorConfig{{Host: address, Insecure: true}}},
	}}}
	config.NoPrometheus = true
	config.DirectoryCacheConfig.Direct = true
	snapshotter, err := service.NewStargzSnapshotterService(context.Background(), root, config)
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	return server.Serve(listener)
}

// Converts a layer: FROM TO; says what came out.
func convert(from, to string) error {
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	state, err := file.Stat()
	if err != nil {
		return err
	}
	blob, err := estargz.Build(io.NewSectionReader(file, 0, state.Size()))
	if err != nil {
		return err
	}
	defer blob.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	packed := digest.SHA256.Digester()
	size, err := io.Copy(io.MultiWriter(out, packed.Hash()), blob)
	if err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"digest": packed.Digest(), "size": size, "diff": blob.DiffID(), "toc": blob.TOCDigest(),
	})
}

func main() {
	var err error
	switch words := os.Args[1:]; {
	case len(words) == 5 && words[0] == "serve":
		err = serve(words[1], words[2], words[3], words[4])
	case len(words) == 3 && words[0] == "convert":
		err = convert(words[1], words[2])
	default:
		err = fmt.Errorf("serve ROOT SOCKET REGISTRY ADDRESS, or convert FROM TO")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

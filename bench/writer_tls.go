//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

// tlsPair returns the two ends of a TLS connection on top of conn, the server, and peer.
func tlsPair(conn, peer net.Conn) (net.Conn, net.Conn, error) {
	certificate, err := selfSigned()
	if err != nil {
		return conn, peer, fmt.Errorf("certificate: %w", err)
	}
	server := tls.Server(conn, &tls.Config{
		Certificates:           []tls.Certificate{certificate},
		SessionTicketsDisabled: true, // so the server sends messages only
	})
	client := tls.Client(peer, &tls.Config{InsecureSkipVerify: true}) // both ends are in this process
	handshake := make(chan error, 1)
	go func() { handshake <- client.Handshake() }()
	if err := errors.Join(server.Handshake(), <-handshake); err != nil {
		return conn, peer, fmt.Errorf("TLS handshake: %w", err)
	}
	return server, client, nil
}

var selfSigned = sync.OnceValues(func() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
})

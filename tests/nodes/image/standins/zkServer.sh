#!/bin/sh
# Stands in for the script of this name in ZooKeeper's distribution: only what the image's
# command asks of it. The images have no log4j, of which 3.4 would show the loggers by JMX.
[ "$1" = start-foreground ] || { echo "usage: zkServer.sh start-foreground" >&2; exit 1; }
exec /opt/jre/bin/java -Xmx64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    -Dzookeeper.admin.enableServer=false -Dzookeeper.jmx.log4j.disable=true -cp '/opt/zookeeper/conf:/opt/zookeeper/lib/*' \
    org.apache.zookeeper.server.quorum.QuorumPeerMain /opt/zookeeper/conf/zoo.cfg

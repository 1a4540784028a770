const std = @import("std");

pub fn main() void {
    var ways = std.mem.zeroes([17][17]u64);
    ways[0][0] = 1; // the way onto the first square
    for (1..17) |r| {
        for (1..17) |c| {
            if (r * c % 7 == 3 or (r + c) % 11 == 5) continue;
            ways[r][c] = ways[r - 1][c] + ways[r][c - 1] + ways[r - 1][c - 1];
        }
    }
    print(ways[16][16]);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}

const std = @import("std");

// Unit by unit; bit i of the profile says that the i-th unit from here is covered already.
pub fn main() void {
    var ways = std.mem.zeroes([64]u64);
    ways[0] = 1;
    for (0..4 * 18) |unit| {
        var next = std.mem.zeroes([64]u64);
        for (ways, 0..) |count, covered| {
            if (count == 0) continue;
            if (covered & 1 == 1) {
                next[covered >> 1] += count;
                continue;
            }
            const below = unit % 4 < 3 and covered & 2 == 0;
            const right = unit / 4 < 17;
            if (below) next[(covered | 2) >> 1] += count;
            if (right) next[(covered | 16) >> 1] += count;
            if (below and right and covered & 48 == 0) next[(covered | 50) >> 1] += count;
        }
        ways = next;
    }
    print(ways[0]);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
